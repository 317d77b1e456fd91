//! nftables tables as data, and the nft commands that make them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Families of tables we use. The order is that of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    Inet,
    Arp,
}

impl Family {
    fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Arp => "arp",
        }
    }
}

/// A named set, or a map if `is_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) is_map: bool,
    /// What comes after `type`, and further statements.
    pub(crate) declaration: Vec<String>,
    /// From keys to values; a set's values are empty.
    pub(crate) elements: BTreeMap<String, String>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Chain {
    /// The hook of a base chain, empty for others.
    pub(crate) hook: String,
    pub(crate) rules: Vec<String>,
}

/// One table, named like all of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Table {
    pub(crate) sets: BTreeMap<String, Set>,
    pub(crate) chains: BTreeMap<String, Chain>,
}

/// Stands in rules for the generation the flows they accept are stamped with.
pub(crate) const GENERATION: &str = "$generation";

/// All rules of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ruleset {
    pub(crate) tables: BTreeMap<Family, Table>,
}

/// nft reads long lines, but the errors it prints quote them.
const ELEMENTS_PER_COMMAND: usize = 512;

impl Set {
    fn keyword(&self) -> &'static str {
        if self.is_map { "map" } else { "set" }
    }
}

impl Ruleset {
    /// The same with its generation written in. It must not be 0, the mark of a flow never judged.
    pub(crate) fn of_generation(&self, generation: u32) -> Self {
        let mut stamped = self.clone();
        let value = format!("{generation:#010x}");
        let chains = stamped.tables.values_mut().flat_map(|table| table.chains.values_mut());
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            if rule.contains(GENERATION) {
                *rule = rule.replace(GENERATION, &value);
            }
        }
        stamped
    }

    /// Commands that replace everything in a namespace by this ruleset, in one transaction.
    pub(crate) fn replace_all(&self) -> String {
        let mut script = String::from("flush ruleset\n");
        script.push_str(&self.changes_from(&Self::default()));
        script
    }

    /// Commands that make this ruleset from `old`, in one transaction. Empty if they are equal.
    pub(crate) fn changes_from(&self, old: &Self) -> String {
        let mut script = String::new();
        let none = Table::default();
        for (family, table) in &self.tables {
            let at = format!("{} {}", family.as_str(), crate::TABLE_NAME);
            if !old.tables.contains_key(family) {
                let _ = writeln!(script, "add table {at}");
            }
            table.changes_from(old.tables.get(family).unwrap_or(&none), &at, &mut script);
        }
        for family in old.tables.keys().filter(|family| !self.tables.contains_key(family)) {
            let _ = writeln!(script, "delete table {} {}", family.as_str(), crate::TABLE_NAME);
        }
        script
    }
}

impl Table {
    /// In an order in which nothing is used before it is there or removed while it is used.
    fn changes_from(&self, old: &Self, at: &str, out: &mut String) {
        let replaced: BTreeSet<&str> = self
            .sets
            .iter()
            .filter(|(name, set)| {
                old.sets
                    .get(*name)
                    .is_some_and(|o| (o.is_map, &o.declaration) != (set.is_map, &set.declaration))
            })
            .map(|(name, _)| name.as_str())
            .collect();
        let kept = |name: &str| self.sets.contains_key(name) && !replaced.contains(name);

        for (name, chain) in &old.chains {
            if self.chains.get(name).is_none_or(|new| new.rules != chain.rules) {
                let _ = writeln!(out, "flush chain {at} {name}");
            }
        }
        for (name, set) in &old.sets {
            if kept(name) {
                let new = &self.sets[name].elements;
                let gone = set.elements.iter().filter(|(k, v)| new.get(*k) != Some(v));
                let gone: Vec<String> = gone.map(|(key, _)| key.clone()).collect();
                elements("delete", at, name, &gone, out);
            } else {
                let _ = writeln!(out, "delete {} {at} {name}", set.keyword());
            }
        }
        for name in old.chains.keys() {
            let gone = self.chains.get(name).is_none_or(|new| new.hook != old.chains[name].hook);
            if gone {
                let _ = writeln!(out, "delete chain {at} {name}");
            }
        }
        for (name, set) in &self.sets {
            if !(old.sets.contains_key(name) && kept(name)) {
                let declaration = set.declaration.join("; ");
                let _ = writeln!(out, "add {} {at} {name} {{ {declaration}; }}", set.keyword());
            }
        }
        for (name, chain) in &self.chains {
            if old.chains.get(name).is_none_or(|o| o.hook != chain.hook) {
                let _ = match chain.hook.as_str() {
                    "" => writeln!(out, "add chain {at} {name}"),
                    hook => writeln!(out, "add chain {at} {name} {{ {hook}; }}"),
                };
            }
        }
        let no_elements = BTreeMap::new();
        for (name, set) in &self.sets {
            let before = match old.sets.get(name) {
                Some(o) if kept(name) => &o.elements,
                _ => &no_elements,
            };
            let new = set.elements.iter().filter(|(k, v)| before.get(*k) != Some(v));
            let new: Vec<String> = new
                .map(|(key, value)| match value.as_str() {
                    "" => key.clone(),
                    _ => format!("{key} : {value}"),
                })
                .collect();
            elements("add", at, name, &new, out);
        }
        for (name, chain) in &self.chains {
            if old.chains.get(name).is_none_or(|o| o != chain) {
                for rule in &chain.rules {
                    let _ = writeln!(out, "add rule {at} {name} {rule}");
                }
            }
        }
    }
}

fn elements(verb: &str, at: &str, set: &str, elements: &[String], out: &mut String) {
    for some in elements.chunks(ELEMENTS_PER_COMMAND) {
        let _ = writeln!(out, "{verb} element {at} {set} {{ {} }}", some.join(", "));
    }
}
