//! A tree of names with text at its leaves.

use serde_json::Value;
use std::collections::BTreeMap;

/// A place in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Text(String),
    Directory(BTreeMap<String, Node>),
}

impl Default for Node {
    fn default() -> Self {
        Self::Directory(BTreeMap::new())
    }
}

impl Node {
    /// Puts text at a path, making directories on the way. Text that is empty is left out.
    pub(crate) fn set(&mut self, path: &[&str], text: impl Into<String>) {
        let text = text.into();
        if text.is_empty() {
            return;
        }
        match (self, path) {
            (Self::Directory(entries), [name]) => {
                entries.insert((*name).to_owned(), Self::Text(text));
            }
            (Self::Directory(entries), [name, rest @ ..]) => {
                entries.entry((*name).to_owned()).or_default().set(rest, text);
            }
            _ => {}
        }
    }

    /// What is at a path.
    pub(crate) fn get<'a>(&self, mut path: impl Iterator<Item = &'a str>) -> Option<&Self> {
        match (path.next(), self) {
            (None, here) => Some(here),
            (Some(name), Self::Directory(entries)) => entries.get(name)?.get(path),
            (Some(_), Self::Text(_)) => None,
        }
    }

    /// A leaf's text, or a directory's entries one a line, those that have entries with a slash.
    pub(crate) fn render(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Directory(entries) => {
                let lines: Vec<_> = entries
                    .iter()
                    .map(|(name, node)| match node {
                        Self::Text(_) => name.clone(),
                        Self::Directory(_) => format!("{name}/"),
                    })
                    .collect();
                lines.join("\n")
            }
        }
    }

    /// Everything below, as JSON.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.clone()),
            Self::Directory(entries) => {
                entries.iter().map(|(name, node)| (name.clone(), node.to_json())).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_finds() {
        let mut tree = Node::default();
        tree.set(&["a", "b"], "1");
        tree.set(&["c"], "2");
        tree.set(&["empty"], "");
        assert_eq!(tree.render(), "a/\nc");
        assert_eq!(tree.get(["a", "b"].into_iter()).map(Node::render).as_deref(), Some("1"));
        assert!(tree.get(["c", "d"].into_iter()).is_none());
        assert!(tree.get(["empty"].into_iter()).is_none());
        assert_eq!(tree.to_json().to_string(), r#"{"a":{"b":"1"},"c":"2"}"#);
    }
}
