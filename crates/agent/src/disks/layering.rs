//! What lies on what: the durable account of this host's disks and frozen layers.
//!
//! A disk is a chain of files: its top, which its VMM writes, then layers frozen by snapshots, then
//! at most one image. Several chains may share what is below. The file is replaced as a whole, and a
//! step that moves files is announced in it first (`Pending`), so that one cut off anywhere is
//! finished by whoever looks next.

use super::keys::KeptKey;
use crate::{
    durable_file,
    error::{Error, Result},
    layout::{Layout, names_in},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a file lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Below {
    /// Nothing: where the file has no data, zeroes are read.
    Nothing,
    /// An image copy.
    Image {
        /// Its id.
        id: String,
        /// The file is the disk, byte for byte; otherwise qcow2.
        raw: bool,
    },
    /// A frozen layer.
    Layer(String),
}

/// A step under way that moves a disk's files. The new top is complete in its own file before the
/// step is announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pending {
    /// The top becomes this layer, the new top lies on it.
    Freeze {
        /// The layer's id, that of the snapshot.
        layer: String,
    },
    /// The new top takes the top's place.
    Replace {
        /// What it lies on.
        below: Below,
        /// The disk's content epoch from then on.
        content_epoch: u64,
    },
}

/// One disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskEntry {
    /// What its top lies on; none: not known, what the spec says.
    pub below: Option<Below>,
    /// Of the content it has.
    pub content_epoch: u64,
    /// Grows with every change of the files it is read from.
    pub chain_epoch: u64,
    /// The step under way.
    pub pending: Option<Pending>,
    /// Of an encrypted disk: its data key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeptKey>,
}

/// One frozen layer. Its id is that of the snapshot it was frozen for, whether that still exists or
/// not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// What it lies on.
    pub below: Below,
    /// The disk whose top it was.
    pub disk_id: String,
    /// When it was frozen, milliseconds since 1970.
    pub taken_unix_ms: u64,
    /// For so long the guest's requests waited for it.
    pub paused_ns: u64,
    /// What it holds itself, bytes.
    pub changed_bytes: u64,
    /// Of a shared pool: its snapshot is gone. Elsewhere it is gone when no spec names it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Of an encrypted layer: its disk's data key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeptKey>,
}

/// Layers, upper first, and the image at the end with whether it is raw.
pub type Chain<'a> = (Vec<&'a str>, Option<(&'a str, bool)>);

/// All disks and layers of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Layering {
    /// By disk id; one that was made once stays until it leaves the spec.
    pub disks: BTreeMap<String, DiskEntry>,
    /// By layer id.
    pub layers: BTreeMap<String, LayerEntry>,
    /// Of a shared pool: the latest epoch of its home that has worked on it.
    #[serde(skip_serializing_if = "is_zero")]
    pub home_epoch: u64,
    /// Of a shared pool: the epoch of the lease under which its disks were last put in order.
    #[serde(skip_serializing_if = "is_zero")]
    pub lease_epoch: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Layering {
    /// Reads the account; an older agent's list of disks is taken over.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(layout: &Layout) -> Result<Self> {
        if let Some(layering) = durable_file::read_json(&layout.layering())? {
            return Ok(layering);
        }
        if !names_in(&layout.layers())?.is_empty() {
            // Taken for strays, they would be removed.
            let detail =
                "it is gone, but frozen layers are there; put a copy of it back".to_owned();
            return Err(Error::Damaged { path: layout.layering(), detail });
        }
        let made: BTreeSet<String> =
            durable_file::read_json(&layout.made_disks())?.unwrap_or_default();
        let disks = made.into_iter().map(|id| (id, DiskEntry::default())).collect();
        Ok(Self { disks, ..Self::default() })
    }

    /// Changes the account on the medium, and then here: what follows from a change, such as files
    /// that nothing needs any more, must not follow from one that is gone with this agent.
    ///
    /// # Errors
    /// When it cannot be written; the old one then still counts, here too.
    pub fn change<T>(&mut self, layout: &Layout, change: impl FnOnce(&mut Self) -> T) -> Result<T> {
        let mut next = self.clone();
        let value = change(&mut next);
        durable_file::write_json(&layout.layering(), &next)?;
        *self = next;
        Ok(value)
    }

    /// The layers below `below`, upper first, and the image at the end, if there is one. A chain
    /// that names a layer that is not there, or itself, ends with its name as an error.
    pub fn chain<'a>(&'a self, below: &'a Below) -> std::result::Result<Chain<'a>, &'a str> {
        let mut layers: Vec<&str> = Vec::new();
        let mut next = below;
        loop {
            match next {
                Below::Nothing => return Ok((layers, None)),
                Below::Image { id, raw } => return Ok((layers, Some((id, *raw)))),
                Below::Layer(id) => {
                    let Some(entry) = self.layers.get(id) else { return Err(id) };
                    if layers.contains(&id.as_str()) {
                        return Err(id);
                    }
                    layers.push(id);
                    next = &entry.below;
                }
            }
        }
    }

    /// The frozen layers and the disks whose top lie on a layer.
    pub fn children<'a>(&'a self, layer: &str) -> (Vec<&'a str>, Vec<&'a str>) {
        let lies_on = |below: &Below| matches!(below, Below::Layer(id) if id == layer);
        let layers = self.layers.iter().filter(|(_, l)| lies_on(&l.below));
        let disks = self.disks.iter().filter(|(_, d)| {
            d.below.as_ref().is_some_and(lies_on)
                || matches!(&d.pending, Some(Pending::Replace { below, .. }) if lies_on(below))
        });
        (layers.map(|(id, _)| id.as_str()).collect(), disks.map(|(id, _)| id.as_str()).collect())
    }

    /// Images that anything lies on.
    pub fn images(&self) -> BTreeSet<String> {
        let below = self.disks.values().filter_map(|d| d.below.as_ref());
        let below = below.chain(self.layers.values().map(|l| &l.below));
        below
            .filter_map(|below| match below {
                Below::Image { id, .. } => Some(id.clone()),
                _ => None,
            })
            .collect()
    }

    /// Layers that no snapshot names and nothing lies on.
    pub fn unused(&self, named: impl Fn(&str) -> bool) -> Vec<String> {
        let unused = |id: &&String| {
            let (layers, disks) = self.children(id);
            !named(id) && layers.is_empty() && disks.is_empty()
        };
        self.layers.keys().filter(unused).cloned().collect()
    }

    /// A layer that no snapshot names and exactly one frozen layer lies on, and that layer: the two
    /// can become one.
    pub fn mergeable(&self, named: impl Fn(&str) -> bool) -> Option<(String, String)> {
        self.layers.keys().find_map(|lower| match self.children(lower) {
            (layers, disks) if !named(lower) && disks.is_empty() && layers.len() == 1 => {
                layers.first().map(|upper| (lower.clone(), (*upper).to_owned()))
            }
            _ => None,
        })
    }

    /// Disks whose chain goes through a layer.
    pub fn through(&self, layer: &str) -> Vec<String> {
        let goes = |disk: &DiskEntry| {
            let chain = disk.below.as_ref().and_then(|below| self.chain(below).ok());
            chain.is_some_and(|(layers, _)| layers.contains(&layer))
        };
        self.disks.iter().filter(|(_, disk)| goes(disk)).map(|(id, _)| id.clone()).collect()
    }

    /// Whether a disk's top is becoming this layer.
    pub fn is_pending(&self, layer: &str) -> bool {
        let becomes =
            |pending: &Pending| matches!(pending, Pending::Freeze { layer: id } if id == layer);
        self.disks.values().any(|disk| disk.pending.as_ref().is_some_and(becomes))
    }

    /// Whether a step is under way of a disk whose chain goes through a layer.
    pub fn has_pending_through(&self, layer: &str) -> bool {
        let pending = |id: &String| self.disks.get(id).is_some_and(|disk| disk.pending.is_some());
        self.through(layer).iter().any(pending)
    }

    /// `upper` has taken over all of `lower`, which it lay on. Chains that go through it change.
    pub fn note_merged(&mut self, lower: &str, upper: &str, changed_bytes: u64) {
        let Some(below) = self.layers.remove(lower).map(|l| l.below) else { return };
        if let Some(entry) = self.layers.get_mut(upper) {
            entry.below = below;
            entry.changed_bytes = changed_bytes;
        }
        for id in self.through(upper) {
            if let Some(disk) = self.disks.get_mut(&id) {
                disk.chain_epoch += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(below: Below) -> LayerEntry {
        LayerEntry {
            below,
            disk_id: "d-1".into(),
            taken_unix_ms: 0,
            paused_ns: 0,
            changed_bytes: 0,
            deleted: false,
            key: None,
        }
    }

    fn on(id: &str) -> Below {
        Below::Layer(id.into())
    }

    fn disk(below: Below) -> DiskEntry {
        DiskEntry { below: Some(below), ..DiskEntry::default() }
    }

    /// d-1 on s-3 on s-2 on s-1 on m-1; d-2, made from s-1.
    fn example() -> Layering {
        let mut layering = Layering::default();
        layering.layers.insert("s-1".into(), layer(Below::Image { id: "m-1".into(), raw: true }));
        layering.layers.insert("s-2".into(), layer(on("s-1")));
        layering.layers.insert("s-3".into(), layer(on("s-2")));
        layering.disks.insert("d-1".into(), disk(on("s-3")));
        layering.disks.insert("d-2".into(), disk(on("s-1")));
        layering
    }

    #[test]
    fn chains_end_at_an_image_or_nothing_and_never_go_round() {
        let mut layering = example();
        let top = on("s-3");
        assert_eq!(layering.chain(&top), Ok((vec!["s-3", "s-2", "s-1"], Some(("m-1", true)))));
        assert_eq!(layering.chain(&Below::Nothing), Ok((vec![], None)));
        assert_eq!(layering.chain(&on("s-9")), Err("s-9"));
        layering.layers.get_mut("s-1").unwrap().below = on("s-3");
        assert_eq!(layering.chain(&top), Err("s-3"));
    }

    #[test]
    fn only_what_nobody_needs_goes_and_only_frozen_pairs_merge() {
        let layering = example();
        let named = |ids: &'static [&str]| move |id: &str| ids.contains(&id);
        assert_eq!(layering.unused(named(&[])), Vec::<String>::new());
        // s-1 carries a layer and a disk; s-3 carries the top of a disk.
        assert_eq!(layering.mergeable(named(&[])), Some(("s-2".into(), "s-3".into())));
        assert_eq!(layering.mergeable(named(&["s-2"])), None);

        let mut after = example();
        after.note_merged("s-2", "s-3", 77);
        assert_eq!(after.chain(&on("s-3")), Ok((vec!["s-3", "s-1"], Some(("m-1", true)))));
        assert_eq!(after.layers["s-3"].changed_bytes, 77);
        assert_eq!((after.disks["d-1"].chain_epoch, after.disks["d-2"].chain_epoch), (1, 0));
        after.disks.remove("d-2");
        assert_eq!(after.mergeable(named(&[])), Some(("s-1".into(), "s-3".into())));
        after.disks.remove("d-1");
        assert_eq!(after.unused(named(&["s-1"])), ["s-3"]);
    }

    #[test]
    fn a_layer_is_kept_for_a_disk_that_is_about_to_lie_on_it() {
        let mut layering = Layering::default();
        layering.layers.insert("s-1".into(), layer(Below::Nothing));
        let mut reset = disk(Below::Nothing);
        reset.pending = Some(Pending::Replace { below: on("s-1"), content_epoch: 2 });
        layering.disks.insert("d-1".into(), reset);
        assert_eq!(layering.unused(|_| false), Vec::<String>::new());
    }

    #[test]
    fn what_could_not_be_written_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        layout.create().unwrap();
        let mut layering = example();
        layering.change(&layout, |_| ()).unwrap();
        // In the way of the file's new version.
        std::fs::create_dir(layout.layering().with_extension("json.part")).unwrap();
        let merge = |account: &mut Layering| account.note_merged("s-2", "s-3", 77);
        layering.change(&layout, merge).unwrap_err();
        assert_eq!(layering, example());
        assert_eq!(Layering::load(&layout).unwrap(), example());
    }

    #[test]
    fn an_older_agents_list_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        layout.create().unwrap();
        durable_file::write(&layout.made_disks(), br#"["d-1"]"#).unwrap();
        let mut layering = Layering::load(&layout).unwrap();
        assert_eq!(layering.disks.keys().collect::<Vec<_>>(), ["d-1"]);
        let add = |account: &mut Layering| account.disks.insert("d-2".into(), disk(on("s-1")));
        layering.change(&layout, add).unwrap();
        assert_eq!(Layering::load(&layout).unwrap(), layering);
    }
}
