//! Which item of the menu is the default.

use super::super::Entry;
use super::machine::{Action, Item, Machine};
use crate::error::Error;

/// Submenus in submenus.
const DEPTH: usize = 8;

/// Entries with a kernel: the default, the fallback, then the others in their order.
pub(super) fn entries(machine: &mut Machine<'_>) -> Result<Vec<Entry>, Error> {
    let items = machine.items.clone();
    let mut found = Vec::new();
    for name in ["default", "fallback"] {
        let wanted = machine.variables.get(name).cloned().unwrap_or_default();
        let wanted = if name == "default" && wanted.is_empty() { "0".to_owned() } else { wanted };
        let path: Vec<&str> = wanted.split('>').collect();
        if let Some(item) = select(machine, &items, &path)? {
            add(&mut found, resolve(machine, &item, DEPTH)?);
        }
    }
    for item in items.iter().take(64) {
        add(&mut found, resolve(machine, item, DEPTH)?);
    }
    Ok(found)
}

fn add(found: &mut Vec<Entry>, entry: Option<Entry>) {
    if let Some(entry) = entry
        && !found.contains(&entry)
    {
        found.push(entry);
    }
}

/// The item a path of ids, titles or numbers leads to.
fn select(machine: &mut Machine<'_>, items: &[Item], path: &[&str]) -> Result<Option<Item>, Error> {
    let mut items = items.to_vec();
    let mut chosen = None;
    for wanted in path.iter().take(DEPTH) {
        let wanted = wanted.trim();
        let by_name = items.iter().find(|item| item.id == wanted || item.title == wanted);
        let by_number = || wanted.parse::<usize>().ok().and_then(|number| items.get(number));
        let Some(item) = by_name.or_else(by_number).cloned() else { break };
        if let Action::Submenu(block, arguments) = &item.action {
            items = machine.submenu(block, arguments)?;
        } else {
            items.clear();
        }
        chosen = Some(item);
    }
    Ok(chosen)
}

/// The entry of an item; of a submenu, its first.
fn resolve(machine: &mut Machine<'_>, item: &Item, depth: usize) -> Result<Option<Entry>, Error> {
    match &item.action {
        Action::Ready(entry) => Ok(Some((**entry).clone())),
        Action::Boot(block, arguments) => machine.boot(&item.title, block, arguments),
        Action::Submenu(_, _) if depth == 0 => Ok(None),
        Action::Submenu(block, arguments) => {
            for inner in machine.submenu(block, arguments)?.iter().take(64) {
                if let Some(entry) = resolve(machine, inner, depth - 1)? {
                    return Ok(Some(entry));
                }
            }
            Ok(None)
        }
    }
}
