//! Changing what a disk's chain is made of while it is in use: a new top, which makes a snapshot of
//! the old one, or other layers below the top.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::chain::{Chain, Kind, LayerState};
use super::gate::Closed;
use super::open::{MAX_LAYERS, open_layer, storage};
use super::{Format, Image, Layer};
use crate::error::Error;
use crate::format::header::Header;
use crate::luks::Passphrase;
use crate::storage::Storage;

/// How long the requests under way may take before a switch is given up.
const DRAIN_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

type File = (Arc<dyn Storage>, Format);

/// What a switch of layers cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switched {
    /// For how long requests were held back.
    pub paused: Duration,
}

impl Image {
    /// Replace layers while the disk is in use.
    ///
    /// With `top`, an empty writable qcow2 overlay of the disk's size becomes the top layer, and
    /// `backing` is what the chain was so far: the old top, opened once more and best read-only, and
    /// everything below it. The old top holds every write completed so far, durably, and is never
    /// written again by this image. Without `top`, the top layer stays and `backing` replaces
    /// everything below it; the caller sees to it that the disk reads the same.
    ///
    /// The layers are opened while requests go on. Then new requests are held back, in queues without
    /// blocking their threads, until those under way have ended and the old top is flushed. Every
    /// queue with requests in flight has to be popped meanwhile, so this is no call for a thread
    /// that serves one.
    ///
    /// # Errors
    /// Layers that cannot be opened or do not fit, a read-only image for a new top, requests that
    /// take too long, or the host's error from the flush. The disk then goes on with its old
    /// layers. [`Error::Layer`] counts as in the new chain, the top being 0.
    pub fn switch_layers(
        &self,
        top: Option<Layer>,
        backing: Vec<Layer>,
    ) -> Result<Switched, Error> {
        let backing = backing.into_iter().map(storage).collect();
        self.switch_storage(top.map(storage), backing, None)
    }

    /// As [`switch_layers`](Self::switch_layers), where some of the layers may be encrypted: all of
    /// them with this passphrase. What lies on an encrypted top has to be encrypted.
    ///
    /// # Errors
    /// As `switch_layers`, and [`Error::Locked`] of a layer that it does not unlock.
    pub fn switch_encrypted(
        &self,
        top: Option<Layer>,
        backing: Vec<Layer>,
        passphrase: &Passphrase,
    ) -> Result<Switched, Error> {
        let backing = backing.into_iter().map(storage).collect();
        self.switch_storage(top.map(storage), backing, Some(passphrase))
    }

    pub(crate) fn switch_storage(
        &self,
        top: Option<File>,
        backing: Vec<File>,
        passphrase: Option<&Passphrase>,
    ) -> Result<Switched, Error> {
        // Neither size nor chain changes from here on.
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if backing.len() + 1 > MAX_LAYERS {
            return Err(Error::InvalidArgument(format!(
                "a chain has 1 to {MAX_LAYERS} layers, not {}",
                backing.len() + 1
            )));
        }
        match top {
            Some(top) => self.push_top(top, backing, passphrase),
            None => self.replace_backing(backing, passphrase),
        }
    }

    fn push_top(
        &self,
        top: File,
        backing: Vec<File>,
        passphrase: Option<&Passphrase>,
    ) -> Result<Switched, Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let old = self.chain();
        let top = self.open_top(top, &old, passphrase).map_err(|e| e.in_layer(0))?;
        let mut backing = backing.into_iter();
        let Some((frozen, format)) = backing.next() else {
            return Err(Error::InvalidArgument(
                "below a new top layer comes the old one, but no layers were given".into(),
            ));
        };
        check_same(old.top(), &*frozen, format).map_err(|e| e.in_layer(1))?;
        let below = open_below(backing, 2, passphrase)?;

        // Most of what there is to flush goes out while requests still run; the second time what
        // was written during the first.
        self.flush()?;
        self.flush()?;
        let closed = self.close()?;
        old.top().flush()?;
        let frozen = Arc::new(freeze(old.top(), frozen)?);
        let mut layers = vec![Arc::new(top), frozen];
        layers.extend(below);
        let (_, paused) = closed.switch(Chain::new(layers, false));
        // Counts of clusters given back at the end of the flush; lost, they would only be leaks.
        let _ = old.top().file.sync();
        Ok(Switched { paused })
    }

    fn replace_backing(
        &self,
        backing: Vec<File>,
        passphrase: Option<&Passphrase>,
    ) -> Result<Switched, Error> {
        let old = self.chain();
        if old.layers.len() == 1 && !backing.is_empty() {
            // Its discarded clusters would show what is below.
            return Err(Error::InvalidArgument(
                "the disk's only layer has nothing below it that could be replaced".into(),
            ));
        }
        let below = open_below(backing.into_iter(), 1, passphrase)?;
        let mut layers = vec![Arc::clone(&old.layers[0])];
        layers.extend(below);
        let (_, paused) = self.close()?.switch(Chain::new(layers, self.read_only));
        Ok(Switched { paused })
    }

    fn close(&self) -> Result<Closed<'_>, Error> {
        self.gate.close(DRAIN_LIMIT).ok_or(Error::Busy {
            action: "a change of the disk's layers",
            seconds: DRAIN_LIMIT.as_secs(),
        })
    }

    /// Open the new top and see that it fits on the old chain.
    fn open_top(
        &self,
        (file, format): File,
        old: &Chain,
        passphrase: Option<&Passphrase>,
    ) -> Result<LayerState, Error> {
        let refuse = |problem: String| Err(Error::InvalidArgument(problem));
        if format != Format::Qcow2 {
            return refuse("a new top layer has to be a qcow2 overlay, not raw".into());
        }
        if !file.is_writable().map_err(|e| Error::io("look at the new top layer", e))? {
            return refuse("the new top layer is not open for reading and writing".into());
        }
        for layer in &old.layers {
            if is_same_file(&*file, &*layer.file)? {
                return refuse("the new top layer is in the disk's chain already".into());
            }
        }
        let header = Header::read(&*file)?;
        if header.size != self.virtual_size() {
            return refuse(format!(
                "the new top layer has a size of {} bytes, the disk one of {}",
                header.size,
                self.virtual_size()
            ));
        }
        if header.encryption.is_none() && old.cipher(0).is_some() {
            return refuse("the new top layer of an encrypted disk is not encrypted".into());
        }
        let layer = open_layer(file, format, true, true, passphrase)?;
        if !layer.metadata()?.is_empty()? {
            return refuse("the new top layer already has content".into());
        }
        Ok(layer)
    }
}

fn open_below(
    files: impl ExactSizeIterator<Item = File>,
    first: usize,
    passphrase: Option<&Passphrase>,
) -> Result<Vec<Arc<LayerState>>, Error> {
    let count = files.len();
    files
        .enumerate()
        .map(|(index, (file, format))| {
            open_layer(file, format, false, index + 1 < count, passphrase)
                .map(Arc::new)
                .map_err(|e| e.in_layer(first + index))
        })
        .collect()
}

fn is_same_file(a: &dyn Storage, b: &dyn Storage) -> Result<bool, Error> {
    let identity = |file: &dyn Storage| {
        file.identity().map_err(|e| Error::io("tell the layers' files apart", e))
    };
    Ok(identity(a)?.is_some() && identity(a)? == identity(b)?)
}

/// Is `file` the one of `layer`, opened once more?
fn check_same(layer: &LayerState, file: &dyn Storage, format: Format) -> Result<(), Error> {
    let refuse = || Err(Error::InvalidArgument("it is not the disk's present top layer".into()));
    if format != layer.format() {
        return refuse();
    }
    let known = layer.file.identity().map_err(|e| Error::io("look at the top layer", e))?;
    if known.is_some() && !is_same_file(&*layer.file, file)? {
        return refuse();
    }
    match layer.kind {
        Kind::Raw => Ok(()),
        Kind::Qcow2 { .. } => {
            let header = Header::read(file)?;
            layer.metadata()?.check_same(&header)
        }
    }
}

/// The flushed top layer as one that is read through `file`.
fn freeze(layer: &LayerState, file: Arc<dyn Storage>) -> Result<LayerState, Error> {
    let kind = match &layer.kind {
        Kind::Raw => Kind::Raw,
        Kind::Qcow2 { geometry, compression, .. } => Kind::Qcow2 {
            geometry: *geometry,
            compression: *compression,
            metadata: Box::new(Mutex::new(layer.metadata()?.freeze(Arc::clone(&file)))),
        },
    };
    Ok(LayerState::new(file, kind, layer.size()).with_cipher(layer.cipher.clone()))
}
