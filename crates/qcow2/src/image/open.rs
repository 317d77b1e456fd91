//! Opening a chain of layers.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::chain::{Chain, Kind, LayerState};
use super::gate::Gate;
use super::{Format, Image, Layer, OpenOptions};
use crate::check;
use crate::error::Error;
use crate::format::header::{self, Header};
use crate::luks::{self, Passphrase};
use crate::metadata::Metadata;
use crate::storage::Storage;

/// Longer chains are a mistake of the caller.
pub(super) const MAX_LAYERS: usize = 256;

impl Image {
    /// Open a chain, top layer first; layers below the top are only ever read. The chain is what
    /// the caller passes: a backing file named in a header is never opened.
    ///
    /// # Errors
    /// An image that is broken, needs an unsupported feature, or is marked corrupt and was not
    /// opened read-only; or the host's I/O error. [`Error::Layer`] says which layer it was.
    pub fn open(layers: Vec<Layer>, options: OpenOptions) -> Result<Arc<Self>, Error> {
        Self::open_storage(layers.into_iter().map(storage).collect(), options, None)
    }

    /// As [`open`](Self::open), where some of the layers may be encrypted: all of them with this
    /// passphrase.
    ///
    /// # Errors
    /// As `open`, and [`Error::Locked`] of a layer that it does not unlock.
    pub fn open_encrypted(
        layers: Vec<Layer>,
        options: OpenOptions,
        passphrase: &Passphrase,
    ) -> Result<Arc<Self>, Error> {
        let layers = layers.into_iter().map(storage).collect();
        Self::open_storage(layers, options, Some(passphrase))
    }

    pub(crate) fn open_storage(
        layers: Vec<(Arc<dyn Storage>, Format)>,
        options: OpenOptions,
        passphrase: Option<&Passphrase>,
    ) -> Result<Arc<Self>, Error> {
        let count = layers.len();
        if count == 0 || count > MAX_LAYERS {
            return Err(Error::InvalidArgument(format!(
                "a chain has 1 to {MAX_LAYERS} layers, not {count}"
            )));
        }
        let layers = layers
            .into_iter()
            .enumerate()
            .map(|(index, (file, format))| {
                let writable = index == 0 && !options.read_only;
                open_layer(file, format, writable, index + 1 < count, passphrase)
                    .map_err(|e| e.in_layer(index))
                    .map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let chain = Chain::new(layers, options.read_only);
        Ok(Arc::new(Self {
            size: AtomicU64::new(chain.size()),
            gate: Gate::new(chain),
            read_only: options.read_only,
            changing: Mutex::new(()),
            no_ring: AtomicBool::new(false),
        }))
    }
}

/// A layer as the engine sees it.
pub(super) fn storage(layer: Layer) -> (Arc<dyn Storage>, Format) {
    (Arc::new(layer.file), layer.format)
}

pub(super) fn open_layer(
    file: Arc<dyn Storage>,
    format: Format,
    writable: bool,
    has_backing: bool,
    passphrase: Option<&Passphrase>,
) -> Result<LayerState, Error> {
    if format == Format::Raw {
        let size = file.len().map_err(|e| Error::io("find the length of the disk", e))?;
        return Ok(LayerState::new(file, Kind::Raw, size));
    }
    let mut header = Header::read(&*file)?;
    if writable && header.incompatible & header::CORRUPT != 0 {
        return Err(Error::corrupt("the header marks it as corrupt; it can be opened read-only"));
    }
    if writable && header.incompatible & header::DIRTY != 0 {
        check::repair_storage(&*file)?;
        header = Header::read(&*file)?;
    }
    let cipher = match header.encryption {
        Some(place) => Some(Arc::new(luks::open(&*file, place, passphrase)?)),
        None => None,
    };
    let (geometry, compression, size) = (header.geometry, header.compression, header.size);
    let metadata = Metadata::open(Arc::clone(&file), header, writable, has_backing)?;
    let kind = Kind::Qcow2 { geometry, compression, metadata: Box::new(Mutex::new(metadata)) };
    Ok(LayerState::new(file, kind, size).with_cipher(cipher))
}
