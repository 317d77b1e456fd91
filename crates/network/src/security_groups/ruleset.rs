//! nftables tables as data, and the nft commands that make them.

use compact_str::{CompactString, format_compact};
use std::{
    cmp::Ordering,
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
    const ALL: [Self; 2] = [Self::Inet, Self::Arp];

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
    pub(crate) elements: Elements,
}

/// Sets may have very many elements, and most are short enough to need no memory of their own.
pub(crate) type Elements = BTreeMap<CompactString, CompactString>;

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
    /// Named limits, from names to what comes in braces.
    pub(crate) limits: BTreeMap<String, String>,
    pub(crate) sets: BTreeMap<String, Set>,
    pub(crate) chains: BTreeMap<String, Chain>,
}

/// Stands in rules for the generation the flows they accept are stamped with.
pub(crate) const GENERATION: &str = "$generation";

/// All rules of a namespace, in tables of one name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ruleset {
    pub(crate) name: String,
    pub(crate) tables: BTreeMap<Family, Table>,
}

/// What tables a namespace has, as far as replacing them needs to know.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// Those of the ruleset's name. Declarations and rules are not what they are.
    pub(crate) tables: BTreeMap<Family, Table>,
    /// Family and name of those that can only be deleted whole.
    ours_to_delete: BTreeSet<(String, String)>,
    others: BTreeSet<(String, String)>,
}

impl Listed {
    /// From what `nft -j list ruleset` prints.
    pub(crate) fn parse(listing: &serde_json::Value, name: &str) -> Self {
        const UNKNOWN: &str = "unknown";
        let mut listed = Self::default();
        for object in listing["nftables"].as_array().into_iter().flatten() {
            let Some((kind, object)) = object.as_object().and_then(|o| o.iter().next()) else {
                continue;
            };
            if kind == "metainfo" {
                continue;
            }
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            let table = text(if kind == "table" { "name" } else { "table" });
            let family = Family::ALL.into_iter().find(|f| f.as_str() == text("family"));
            let (Some(family), true) = (family, table == name) else {
                listed.others.insert((text("family"), table));
                continue;
            };
            let entry = listed.tables.entry(family).or_default();
            match kind.as_str() {
                "table" | "rule" => {}
                "chain" => {
                    let hook = match object["hook"].as_str() {
                        None => String::new(),
                        Some(hook) => format!(
                            "type {} hook {hook} priority {}; policy {}",
                            text("type"),
                            object["prio"],
                            text("policy"),
                        ),
                    };
                    let rules = vec![UNKNOWN.to_owned()];
                    entry.chains.insert(text("name"), Chain { hook, rules });
                }
                "set" | "map" => {
                    let set = Set {
                        is_map: kind == "map",
                        declaration: vec![UNKNOWN.to_owned()],
                        elements: Elements::new(),
                    };
                    entry.sets.insert(text("name"), set);
                }
                "limit" => {
                    entry.limits.insert(text("name"), UNKNOWN.to_owned());
                }
                _ => {
                    listed.ours_to_delete.insert((text("family"), table));
                }
            }
        }
        listed.tables.retain(|family, _| {
            !listed.ours_to_delete.iter().any(|(other, _)| other == family.as_str())
        });
        listed
    }
}

/// nft reads long lines, but the errors it prints quote them.
const ELEMENTS_PER_COMMAND: usize = 512;

impl Set {
    pub(crate) fn insert(
        &mut self,
        key: impl Into<CompactString>,
        value: impl Into<CompactString>,
    ) {
        self.elements.insert(key.into(), value.into());
    }

    fn keyword(&self) -> &'static str {
        if self.is_map { "map" } else { "set" }
    }
}

impl Chain {
    /// Whether the rules of another generation, `old`, are others. Those with the generation in them
    /// always are.
    fn rules_differ(&self, old: &Self) -> bool {
        self.rules != old.rules || self.rules.iter().any(|rule| rule.contains(GENERATION))
    }
}

impl Ruleset {
    /// Commands that make this ruleset, of this generation, of what is listed, in one transaction; with
    /// `alone`, other tables go. Base chains stay where they can: one that is removed is for a moment a
    /// chain without rules, which drops everything.
    pub(crate) fn replace(&self, generation: u32, listed: &Listed, alone: bool) -> String {
        let mut script = String::new();
        let others = listed.others.iter().filter(|_| alone);
        for (family, name) in listed.ours_to_delete.iter().chain(others) {
            let _ = writeln!(script, "delete table {family} {name}");
        }
        let old = Self { name: self.name.clone(), tables: listed.tables.clone() };
        script.push_str(&self.changes_from(&old, generation));
        script
    }

    /// Commands that make this ruleset, of this generation, from `old` of another, in one transaction.
    /// The generation must not be 0, the mark of a flow never judged.
    pub(crate) fn changes_from(&self, old: &Self, generation: u32) -> String {
        let generation = format!("{generation:#010x}");
        let mut script = String::new();
        let none = Table::default();
        for (family, table) in &self.tables {
            let at = format!("{} {}", family.as_str(), self.name);
            if !old.tables.contains_key(family) {
                let _ = writeln!(script, "add table {at}");
            }
            let old = old.tables.get(family).unwrap_or(&none);
            table.changes_from(old, &generation, &at, &mut script);
        }
        for family in old.tables.keys().filter(|family| !self.tables.contains_key(family)) {
            let _ = writeln!(script, "delete table {} {}", family.as_str(), self.name);
        }
        script
    }
}

impl Table {
    /// Adds rules for a hook that come before connections are tracked.
    pub(crate) fn add_untracked(&mut self, hook: &str, rules: Vec<String>) {
        let chain = self.chains.entry(format!("untracked_{hook}")).or_default();
        chain.hook = format!("type filter hook {hook} priority -300; policy accept");
        chain.rules.extend(rules);
    }

    /// In an order in which nothing is used before it is there or removed while it is used.
    fn changes_from(&self, old: &Self, generation: &str, at: &str, out: &mut String) {
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
        let mut added = BTreeMap::new();
        let kept = |name: &str| self.sets.contains_key(name) && !replaced.contains(name);

        for (name, chain) in &old.chains {
            if self.chains.get(name).is_none_or(|new| new.rules_differ(chain)) {
                let _ = writeln!(out, "flush chain {at} {name}");
            }
        }
        for (name, set) in &old.sets {
            if kept(name) {
                let (gone, new) = difference(&set.elements, &self.sets[name].elements);
                elements("delete", at, name, gone.into_iter().map(|(key, _)| key.clone()), out);
                added.insert(name, new);
            } else {
                let _ = writeln!(out, "delete {} {at} {name}", set.keyword());
            }
        }
        for (name, limit) in &old.limits {
            if self.limits.get(name) != Some(limit) {
                let _ = writeln!(out, "delete limit {at} {name}");
            }
        }
        for name in old.chains.keys() {
            let gone = self.chains.get(name).is_none_or(|new| new.hook != old.chains[name].hook);
            if gone {
                let _ = writeln!(out, "delete chain {at} {name}");
            }
        }
        for (name, limit) in &self.limits {
            if old.limits.get(name) != Some(limit) {
                let _ = writeln!(out, "add limit {at} {name} {{ {limit}; }}");
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
        for (name, set) in &self.sets {
            let new = added.remove(name).unwrap_or_else(|| set.elements.iter().collect());
            let new = new.into_iter().map(|(key, value)| match value.as_str() {
                "" => key.clone(),
                _ => format_compact!("{key} : {value}"),
            });
            elements("add", at, name, new, out);
        }
        for (name, chain) in &self.chains {
            if old.chains.get(name).is_none_or(|o| o.hook != chain.hook || chain.rules_differ(o)) {
                for rule in &chain.rules {
                    let rule = rule.replace(GENERATION, generation);
                    let _ = writeln!(out, "add rule {at} {name} {rule}");
                }
            }
        }
    }
}

type Element<'a> = (&'a CompactString, &'a CompactString);

/// What of `old` is gone and what of `new` is new, in one walk over both, as a set may have very many
/// elements. What has another value is both.
fn difference<'a>(old: &'a Elements, new: &'a Elements) -> (Vec<Element<'a>>, Vec<Element<'a>>) {
    let (mut gone, mut added) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(before), Some(after)) => before.0.cmp(after.0),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return (gone, added),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        if before != after {
            gone.extend(before);
            added.extend(after);
        }
    }
}

fn elements(
    verb: &str,
    at: &str,
    set: &str,
    elements: impl Iterator<Item = CompactString>,
    out: &mut String,
) {
    let elements: Vec<CompactString> = elements.collect();
    for some in elements.chunks(ELEMENTS_PER_COMMAND) {
        let _ = writeln!(out, "{verb} element {at} {set} {{ {} }}", some.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_sets_is_what_makes_one_of_the_other() {
        let set = |elements: &[(&str, &str)]| -> Elements {
            elements.iter().map(|&(key, value)| (key.into(), value.into())).collect()
        };
        let keys = |elements: Vec<Element<'_>>| -> Vec<String> {
            elements.into_iter().map(|(key, value)| format!("{key}{value}")).collect()
        };
        let old = set(&[("a", ""), ("b", "1"), ("d", ""), ("e", "")]);
        let new = set(&[("b", "2"), ("c", ""), ("e", ""), ("f", "")]);
        let (gone, added) = difference(&old, &new);
        assert_eq!(keys(gone), ["a", "b1", "d"]);
        assert_eq!(keys(added), ["b2", "c", "f"]);
        let (gone, added) = difference(&old, &old);
        assert!(gone.is_empty() && added.is_empty());
    }
}
