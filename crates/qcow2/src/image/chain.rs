//! The layers of an open disk. A request sees one chain from its start to its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Format;
use super::below::Below;
use crate::error::Error;
use crate::format::header::{Compression, Geometry};
use crate::luks::Xts;
use crate::metadata::Metadata;
use crate::request::locks::RangeLocks;
use crate::storage::Storage;

/// Layers, top first, and the locks of the requests under way on them.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) layers: Vec<Arc<LayerState>>,
    pub(crate) locks: RangeLocks,
    /// What is below the top, in a long chain.
    pub(crate) below: Option<Below>,
    /// Any layer is encrypted.
    pub(crate) is_encrypted: bool,
    read_only: bool,
}

#[derive(Debug)]
pub(crate) struct LayerState {
    pub(crate) file: Arc<dyn Storage>,
    pub(crate) kind: Kind,
    /// Of an encrypted layer.
    pub(crate) cipher: Option<Arc<Xts>>,
    size: AtomicU64,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Raw,
    Qcow2 { geometry: Geometry, compression: Compression, metadata: Box<Mutex<Metadata>> },
}

impl LayerState {
    pub(crate) fn new(file: Arc<dyn Storage>, kind: Kind, size: u64) -> Self {
        Self { file, kind, cipher: None, size: AtomicU64::new(size) }
    }

    pub(crate) fn with_cipher(self, cipher: Option<Arc<Xts>>) -> Self {
        Self { cipher, ..self }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(super) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    pub(super) fn format(&self) -> Format {
        match self.kind {
            Kind::Raw => Format::Raw,
            Kind::Qcow2 { .. } => Format::Qcow2,
        }
    }

    /// The metadata of a qcow2 layer.
    pub(crate) fn metadata(&self) -> Result<MutexGuard<'_, Metadata>, Error> {
        match &self.kind {
            Kind::Qcow2 { metadata, .. } => {
                Ok(metadata.lock().unwrap_or_else(PoisonError::into_inner))
            }
            Kind::Raw => Err(Error::InvalidArgument("a raw layer has no metadata".into())),
        }
    }

    /// Make data and metadata durable. No request may be under way.
    pub(super) fn flush(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Raw => self.file.sync().map_err(|e| Error::io("sync the image", e)),
            Kind::Qcow2 { .. } => self.metadata()?.flush_all(),
        }
    }
}

impl Chain {
    pub(super) fn new(layers: Vec<Arc<LayerState>>, read_only: bool) -> Self {
        // All layers below together keep as many tables in memory as the top.
        for layer in &layers[1..] {
            if let Ok(mut metadata) = layer.metadata() {
                metadata.share_cache(layers.len() - 1);
            }
        }
        let below = Below::new(&layers);
        let is_encrypted = layers.iter().any(|layer| layer.cipher.is_some());
        Self { layers, locks: RangeLocks::default(), below, is_encrypted, read_only }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn top(&self) -> &LayerState {
        &self.layers[0]
    }

    /// Size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.top().size()
    }

    pub(crate) fn file(&self, layer: usize) -> &dyn Storage {
        &*self.layers[layer].file
    }

    /// The cipher of an encrypted layer.
    pub(crate) fn cipher(&self, layer: usize) -> Option<&Xts> {
        if !self.is_encrypted {
            return None;
        }
        self.layers[layer].cipher.as_deref()
    }

    /// The metadata of a qcow2 layer.
    pub(crate) fn metadata(&self, layer: usize) -> Result<MutexGuard<'_, Metadata>, Error> {
        self.layers[layer].metadata()
    }

    /// Does a cluster at this offset lie wholly beyond the end of the layer's file?
    pub(crate) fn is_truncated_at(&self, layer: usize, offset: u64) -> bool {
        match self.metadata(layer) {
            Ok(metadata) => metadata.is_cluster_beyond_end(offset),
            Err(_) => true,
        }
    }
}
