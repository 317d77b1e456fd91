//! Merging a layer into the one above it, so that it can leave the chain.
//!
//! What `upper` lacks and `lower` has is copied up; nothing that `upper` maps is ever changed, and
//! none of its clusters is given back. A reader that has the old chain open, in this process or in
//! another, therefore sees no change: where its copy of a table of `upper` is old, it says "look
//! below", and `lower` has the same bytes. A table read anew names clusters whose data was written
//! before. (Entries are whole words, which the host's copies do not tear.)
//!
//! Everything is written in the order of any other write: data and counts, sync, tables. A process
//! killed at any point leaves a valid `upper` that reads as before; what is mapped is done, and the
//! next call goes on from there.

use std::fs::File;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::{check_storage, repair_storage};
use crate::create::Backing;
use crate::error::Error;
use crate::format::entry::Mapping;
use crate::format::header::Header;
use crate::format::rebase;
use crate::image::{Chain, Format, Image, Kind, Layer, LayerState, OpenOptions};
use crate::luks::Passphrase;
use crate::storage::Storage;

/// Bytes copied in one step.
const STEP: u64 = 1 << 20;
/// Bytes copied between two flushes. Unit tests copy little.
const FLUSH: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };
/// Clusters of `upper` looked at at once.
const WINDOW: u64 = 1024;

/// How [`pull`] goes about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// Copy no faster than this.
    pub bytes_per_second: Option<u64>,
}

/// How far a [`pull`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes of the disk dealt with.
    pub done: u64,
    /// Bytes of the disk.
    pub total: u64,
    /// Bytes copied so far in this call.
    pub copied: u64,
}

/// How a [`pull`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulled {
    /// Bytes copied in this call.
    pub copied: u64,
    /// `upper` no longer needs `lower`. False when `progress` broke it off.
    pub complete: bool,
}

/// Copy what `upper` lacks from the layer below it, so that `upper` on what follows reads as it did
/// on that layer. `below` is the chain under `upper`: the layer to be merged first, then those that
/// stay. At the end the header of `upper` names the backing file that the merged layer's header
/// names.
///
/// `upper` is a qcow2 file open for reading and writing which nobody else writes; others may read
/// it meanwhile. It must have no internal snapshots. `progress` is called at least after each MiB
/// copied, and can break off; what was copied then stays.
///
/// # Errors
/// Layers that cannot be opened, a damaged `upper`, or the host's I/O error. `upper` stays valid
/// and reads as before, and the call can be made again.
pub fn pull(
    upper: Layer,
    below: Vec<Layer>,
    options: PullOptions,
    progress: impl FnMut(PullProgress) -> ControlFlow<()>,
) -> Result<Pulled, Error> {
    pull_layers(upper, below, options, None, progress)
}

/// As [`pull`], where some of the layers may be encrypted: all of them with this passphrase. What is
/// copied into an encrypted layer is encrypted there.
///
/// # Errors
/// As `pull`, and [`Error::Locked`] of a layer that it does not unlock.
pub fn pull_encrypted(
    upper: Layer,
    below: Vec<Layer>,
    options: PullOptions,
    passphrase: &Passphrase,
    progress: impl FnMut(PullProgress) -> ControlFlow<()>,
) -> Result<Pulled, Error> {
    pull_layers(upper, below, options, Some(passphrase), progress)
}

fn pull_layers(
    upper: Layer,
    below: Vec<Layer>,
    options: PullOptions,
    passphrase: Option<&Passphrase>,
    mut progress: impl FnMut(PullProgress) -> ControlFlow<()>,
) -> Result<Pulled, Error> {
    let below = below.into_iter().map(|l| {
        let file: Arc<dyn Storage> = Arc::new(l.file);
        (file, l.format)
    });
    if upper.format != Format::Qcow2 {
        return Err(Error::InvalidArgument("a raw layer has nothing below it to merge".into()));
    }
    let upper: Arc<dyn Storage> = Arc::new(upper.file);
    pull_storage(&upper, below.collect(), options, passphrase, &mut progress)
}

/// Make the header of a qcow2 file name another backing file, durably. The content of the file is
/// not changed: see that it fits. The process may be killed at any point.
///
/// # Errors
/// A broken header, one without room for the name, or the host's I/O error.
pub fn set_backing(file: &File, backing: Option<&Backing>) -> Result<(), Error> {
    let format = |format| if format == Format::Raw { "raw" } else { "qcow2" };
    rebase_storage(file, backing.map(|b| (b.name.as_str(), Some(format(b.format)))))
}

fn rebase_storage(file: &dyn Storage, backing: Option<rebase::Backing<'_>>) -> Result<(), Error> {
    for (offset, bytes) in rebase::rebase(&Header::bytes(file)?, backing)? {
        file.write_at(&bytes, offset)
            .and_then(|()| file.sync())
            .map_err(|e| Error::io("write the backing file's name to the header", e))?;
    }
    Ok(())
}

pub(crate) fn pull_storage(
    upper: &Arc<dyn Storage>,
    below: Vec<(Arc<dyn Storage>, Format)>,
    options: PullOptions,
    passphrase: Option<&Passphrase>,
    progress: &mut dyn FnMut(PullProgress) -> ControlFlow<()>,
) -> Result<Pulled, Error> {
    let Some((lower, format)) = below.first() else {
        return Err(Error::InvalidArgument("there is no layer below the upper one".into()));
    };
    let next = match format {
        Format::Raw => (None, None),
        Format::Qcow2 => {
            let header = Header::read(&**lower).map_err(|e| e.in_layer(1))?;
            (header.backing_name, header.backing_format)
        }
    };
    prepare(&**upper).map_err(|e| e.in_layer(0))?;
    if let (Format::Qcow2, None) = (format, Header::read(&**upper)?.encryption)
        && Header::read(&**lower)?.encryption.is_some()
    {
        let problem = "an encrypted layer does not go into one that is not encrypted";
        return Err(Error::InvalidArgument(problem.into()));
    }
    let mut layers = vec![(Arc::clone(upper), Format::Qcow2)];
    layers.extend(below);
    let image = Image::open_storage(layers, OpenOptions::default(), passphrase)?;
    let mut pull = Pull {
        chain: image.chain(),
        image: &image,
        progress,
        limit: options.bytes_per_second.map(|rate| rate.max(1)),
        began: Instant::now(),
        copied: 0,
        unflushed: 0,
    };
    let went_through = pull.run();
    let copied = pull.copied;
    drop(pull);
    // What was copied stays, also after an error.
    let flushed = image.flush();
    let complete = went_through?.is_continue();
    flushed?;
    drop(image);
    if complete {
        let backing = next.0.as_deref().map(|name| (name, next.1.as_deref()));
        rebase_storage(&**upper, backing).map_err(|e| e.in_layer(0))?;
    }
    Ok(Pulled { copied, complete })
}

/// Refuse what cannot be merged into, and give back what a killed merge left behind.
fn prepare(upper: &dyn Storage) -> Result<(), Error> {
    if Header::read(upper)?.snapshots > 0 {
        return Err(Error::Unsupported {
            feature: "merging into a layer with internal snapshots".into(),
            remedy: "delete them with `qemu-img snapshot -d`",
        });
    }
    let mut report = check_storage(upper)?;
    if report.corruptions > 0 {
        let problem = report.messages.drain(..).next();
        return Err(Error::corrupt(problem.unwrap_or_else(|| "a check found damage".into())));
    }
    if report.leaks > 0 {
        repair_storage(upper)?;
    }
    Ok(())
}

struct Pull<'a> {
    image: &'a Image,
    chain: Arc<Chain>,
    progress: &'a mut dyn FnMut(PullProgress) -> ControlFlow<()>,
    limit: Option<u64>,
    began: Instant,
    copied: u64,
    unflushed: u64,
}

/// What the layer to be merged has of a range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Nothing,
    Zeroes,
    /// Data, or some of each.
    Data,
}

impl Holds {
    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Data }
    }
}

impl Pull<'_> {
    fn run(&mut self) -> Result<ControlFlow<()>, Error> {
        let chain = Arc::clone(&self.chain);
        let Kind::Qcow2 { geometry, .. } = &chain.top().kind else {
            return Ok(ControlFlow::Continue(()));
        };
        let (bits, size) = (geometry.cluster_bits, chain.size());
        let clusters = size.div_ceil(geometry.cluster_size());
        let per_step = (STEP >> bits).max(1);
        let mut mappings = Vec::new();
        for first in (0..clusters).step_by(WINDOW as usize) {
            let end = (first + WINDOW).min(clusters);
            if self.has_nothing(first << bits, (end << bits).min(size))? {
                if self.report((end << bits).min(size)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                continue;
            }
            mappings.clear();
            chain.metadata(0)?.map(first, end - first, &mut mappings)?;
            let mut run = first..first;
            for cluster in first..end {
                let offset = cluster << bits;
                let len = geometry.cluster_size().min(size - offset);
                let holds = match mappings.get((cluster - first) as usize) {
                    Some(Mapping::Unallocated) => self.holds(offset, len)?,
                    _ => Holds::Nothing,
                };
                if holds == Holds::Zeroes {
                    self.zero(offset, len)?;
                }
                if holds == Holds::Data && run.end == cluster && run.end - run.start < per_step {
                    run.end += 1;
                } else {
                    if self.copy_run(&run, bits, size)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    run = cluster..cluster + u64::from(holds == Holds::Data);
                }
                if run.is_empty() {
                    run = cluster + 1..cluster + 1;
                }
            }
            if self.copy_run(&run, bits, size)?.is_break()
                || self.report((end << bits).min(size)).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Has the layer to be merged no tables at all from `offset` to `end`?
    fn has_nothing(&self, offset: u64, end: u64) -> Result<bool, Error> {
        let lower = &self.chain.layers[1];
        let Kind::Qcow2 { geometry, .. } = &lower.kind else { return Ok(false) };
        if end > lower.size() {
            return Ok(false);
        }
        let bits = geometry.cluster_bits + geometry.l2_bits();
        let metadata = lower.metadata()?;
        for table in offset >> bits..=(end - 1) >> bits {
            if metadata.has_l2_table(table << geometry.l2_bits()).map_err(|e| e.in_layer(1))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&self, offset: u64, len: u64) -> Result<Holds, Error> {
        let lower = &self.chain.layers[1];
        let inside = len.min(lower.size().saturating_sub(offset));
        let has = |len| layer_holds(lower, offset, len).map_err(|e| e.in_layer(1));
        if inside == len {
            return has(len);
        }
        // Its end hides what is below; without it, a longer layer would show.
        let end = self.chain.layers.get(2).map_or(0, |next| next.size());
        let hides = end > lower.size().max(offset);
        let beyond = if hides { Holds::Zeroes } else { Holds::Nothing };
        if inside == 0 { Ok(beyond) } else { Ok(has(inside)?.and(beyond)) }
    }

    /// Make a cluster of `upper` zeroes, where it would show something else.
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), Error> {
        if self.chain.layers.len() > 2 {
            self.image.write_zeroes(offset, len, true)?;
        }
        Ok(())
    }

    fn copy_run(
        &mut self,
        run: &std::ops::Range<u64>,
        bits: u32,
        size: u64,
    ) -> Result<ControlFlow<()>, Error> {
        if run.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let (offset, end) = (run.start << bits, (run.end << bits).min(size));
        let mut bytes = vec![0; (end - offset) as usize];
        self.image.read_at(&mut bytes, offset)?;
        let mut at = 0;
        while at < bytes.len() {
            let is_zero = |at: usize| {
                bytes[at..bytes.len().min(at + (1 << bits))].iter().all(|byte| *byte == 0)
            };
            let zero = is_zero(at);
            let start = at;
            while at < bytes.len() && is_zero(at) == zero {
                at = (at + (1 << bits)).min(bytes.len());
            }
            let to = offset + start as u64;
            if zero {
                self.zero(to, (at - start) as u64)?;
            } else {
                self.image.write_at(&bytes[start..at], to)?;
                self.copied += (at - start) as u64;
                self.unflushed += (at - start) as u64;
            }
        }
        if self.unflushed >= FLUSH {
            self.image.flush()?;
            self.unflushed = 0;
        }
        Ok(self.report(end))
    }

    /// Report, and wait while this is faster than it may be.
    fn report(&mut self, done: u64) -> ControlFlow<()> {
        loop {
            let (total, copied) = (self.chain.size(), self.copied);
            (self.progress)(PullProgress { done, total, copied })?;
            let Some(limit) = self.limit else { return ControlFlow::Continue(()) };
            let due = Duration::from_secs_f64(self.copied as f64 / limit as f64);
            let Some(early) = due.checked_sub(self.began.elapsed()) else {
                return ControlFlow::Continue(());
            };
            if early.is_zero() {
                return ControlFlow::Continue(());
            }
            std::thread::sleep(early.min(Duration::from_millis(100)));
        }
    }
}

/// What a layer itself holds of a range inside it.
fn layer_holds(layer: &LayerState, offset: u64, len: u64) -> Result<Holds, Error> {
    let Kind::Qcow2 { geometry, .. } = &layer.kind else { return Ok(Holds::Data) };
    let (first, last) =
        (offset >> geometry.cluster_bits, (offset + len - 1) >> geometry.cluster_bits);
    let mut mappings = Vec::with_capacity((last - first + 1) as usize);
    layer.metadata()?.map(first, last - first + 1, &mut mappings)?;
    let each = mappings.iter().map(|mapping| match mapping {
        Mapping::Unallocated => Holds::Nothing,
        Mapping::Zero { .. } => Holds::Zeroes,
        Mapping::Data { .. } | Mapping::Compressed { .. } => Holds::Data,
    });
    Ok(each.reduce(Holds::and).unwrap_or(Holds::Nothing))
}
