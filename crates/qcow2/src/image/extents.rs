//! What of a disk holds data, through all of its layers.

use std::sync::Arc;

use super::chain::{Chain, Kind};
use super::walk::Piece;
use super::{Image, ThreadWaiter};
use crate::error::Error;
use crate::request::locks::Wake;

/// Bytes of the disk looked at while a switch of layers has to wait.
const CHUNK: u64 = 256 << 20;

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Some layer holds data for it, which may be zeroes. Otherwise it reads as zeroes and takes no
    /// space.
    pub data: bool,
}

impl Image {
    /// Tell data from zeroes in `[offset, offset + len)`, through all layers, without reading any
    /// data. The extents cover the range in order; neighbours differ. Of a disk that is written
    /// meanwhile it is what was true at some time during the call.
    ///
    /// # Errors
    /// A range outside the disk, broken metadata, or the host's I/O error.
    pub fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, Error> {
        let size = self.virtual_size();
        let Some(end) = offset.checked_add(len).filter(|end| *end <= size) else {
            return Err(Error::OutOfRange { offset, len, size });
        };
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end {
            let part = CHUNK.min(end - at);
            let chain = self.enter();
            let walked = add_extents(&chain, at, part, &mut extents);
            drop(chain);
            self.gate.leave();
            walked?;
            at += part;
        }
        Ok(extents)
    }

    /// Count as a request under way.
    fn enter(&self) -> Arc<Chain> {
        let waiter = Arc::new(ThreadWaiter::default());
        let wake: Arc<dyn Wake> = waiter.clone();
        self.gate.enter(&wake, 0).unwrap_or_else(|| {
            waiter.wait();
            self.gate.chain()
        })
    }
}

fn add_extents(chain: &Chain, at: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), Error> {
    let mut failed = Ok(());
    chain.walk(0, (at, len), &mut |at, len, piece| match piece {
        Piece::Zero => add(out, at, len, false),
        Piece::Data { layer, host } if matches!(chain.layers[layer].kind, Kind::Raw) => {
            let added = add_raw(chain, layer, (at, len, host), out);
            if failed.is_ok() {
                failed = added;
            }
        }
        Piece::Data { .. } | Piece::Compressed { .. } => add(out, at, len, true),
    })?;
    failed
}

/// The holes of a raw file are zeroes.
fn add_raw(
    chain: &Chain,
    layer: usize,
    (at, len, host): (u64, u64, u64),
    out: &mut Vec<Extent>,
) -> Result<(), Error> {
    let mut done = 0;
    while done < len {
        let data = chain
            .file(layer)
            .next_data(host + done)
            .map_err(|e| Error::io("find the data of a raw file", e).in_layer(layer))?;
        let data = data.unwrap_or(u64::MAX..u64::MAX);
        let start = data.start.saturating_sub(host).clamp(done, len);
        add(out, at + done, start - done, false);
        let end = data.end.saturating_sub(host).clamp(start, len);
        add(out, at + start, end - start, true);
        if end == done {
            // A host that finds data of no length.
            add(out, at + done, len - done, true);
            break;
        }
        done = end;
    }
    Ok(())
}

fn add(out: &mut Vec<Extent>, offset: u64, len: u64, data: bool) {
    match out.last_mut() {
        _ if len == 0 => {}
        Some(last) if last.data == data => last.len += len,
        _ => out.push(Extent { offset, len, data }),
    }
}
