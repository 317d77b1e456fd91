//! Opening a chain of layers.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::{Format, Image, Kind, Layer, LayerState, OpenOptions};
use crate::check;
use crate::error::Error;
use crate::format::header::{self, Header};
use crate::metadata::Metadata;
use crate::request::locks::RangeLocks;
use crate::storage::Storage;

/// Longer chains are a mistake of the caller.
const MAX_LAYERS: usize = 256;

impl Image {
    /// Open a chain, top layer first; layers below the top are only ever read. The chain is what
    /// the caller passes: a backing file named in a header is never opened.
    ///
    /// # Errors
    /// An image that is broken, needs an unsupported feature, or is marked corrupt and was not
    /// opened read-only; or the host's I/O error. [`Error::Layer`] says which layer it was.
    pub fn open(layers: Vec<Layer>, options: OpenOptions) -> Result<Arc<Self>, Error> {
        let layers = layers
            .into_iter()
            .map(|layer| {
                let file: Arc<dyn Storage> = Arc::new(layer.file);
                (file, layer.format)
            })
            .collect();
        Self::open_storage(layers, options)
    }

    pub(crate) fn open_storage(
        layers: Vec<(Arc<dyn Storage>, Format)>,
        options: OpenOptions,
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
                open_layer(file, format, writable, index + 1 < count).map_err(|e| e.in_layer(index))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Self {
            size: AtomicU64::new(layers[0].size),
            layers,
            locks: RangeLocks::default(),
            read_only: options.read_only,
            growing: Mutex::new(()),
            no_ring: AtomicBool::new(false),
        }))
    }
}

fn open_layer(
    file: Arc<dyn Storage>,
    format: Format,
    writable: bool,
    has_backing: bool,
) -> Result<LayerState, Error> {
    if format == Format::Raw {
        let size = file.len().map_err(|e| Error::io("find the length of the disk", e))?;
        return Ok(LayerState { file, kind: Kind::Raw, size });
    }
    let mut header = Header::read(&*file)?;
    if writable && header.incompatible & header::CORRUPT != 0 {
        return Err(Error::corrupt("the header marks it as corrupt; it can be opened read-only"));
    }
    if writable && header.incompatible & header::DIRTY != 0 {
        check::repair_storage(&*file)?;
        header = Header::read(&*file)?;
    }
    let (geometry, compression, size) = (header.geometry, header.compression, header.size);
    let metadata = Metadata::open(Arc::clone(&file), header, writable, has_backing)?;
    Ok(LayerState {
        file,
        kind: Kind::Qcow2 { geometry, compression, metadata: Box::new(Mutex::new(metadata)) },
        size,
    })
}
