//! A descriptor chain as two lists of host memory: what the device may read, then what it may
//! write.

use super::ring::BrokenRing;
use crate::memory::GuestMemory;
use qcow2::Iovecs;
use std::ops::Deref;
use virtio_queue::DescriptorChain;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Pieces of memory in one chain at most; also what one readv takes.
pub const MAX_PIECES: usize = 1024;

/// Pieces of guest memory, in order.
///
/// A piece is only ever made from a slice of mapped guest memory, so it is valid as long as the
/// [`GuestMemory`] it comes from. The guest may change what is in it at any time: everything read
/// from it is copied once and then judged.
#[derive(Debug, Default)]
pub struct Pieces {
    iovecs: Iovecs,
    len: u64,
}

// SAFETY: the pointers lead to guest memory, which is shared with the guest anyway and is only
// accessed by volatile copies or by the kernel.
unsafe impl Send for Pieces {}

impl Pieces {
    /// Bytes in all pieces.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces for a system call.
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs
    }

    /// The same memory, named once more.
    pub fn duplicate(&self) -> Self {
        Self { iovecs: self.iovecs.clone(), len: self.len }
    }

    /// The pieces for a request of its own.
    pub fn into_iovecs(self) -> Iovecs {
        self.iovecs
    }

    fn push(
        &mut self,
        memory: &GuestMemory,
        addr: GuestAddress,
        len: u32,
    ) -> Result<(), BrokenRing> {
        for slice in GuestMemoryBackend::get_slices(memory, addr, len as usize) {
            let slice = slice.map_err(|_| BrokenRing("a buffer is outside guest memory"))?;
            if self.iovecs.len() >= MAX_PIECES {
                return Err(BrokenRing("a chain has too many pieces"));
            }
            let base = slice.ptr_guard_mut().as_ptr();
            self.iovecs.push(libc::iovec { iov_base: base.cast(), iov_len: slice.len() });
        }
        self.len += u64::from(len);
        Ok(())
    }

    /// Takes up to `count` bytes off the front.
    pub fn split_front(&mut self, count: u64) -> Self {
        let mut front = Self::default();
        let mut taken = 0;
        for piece in &mut self.iovecs {
            let left = usize::try_from(count - front.len).unwrap_or(usize::MAX);
            let len = piece.iov_len.min(left);
            if len > 0 {
                front.iovecs.push(libc::iovec { iov_base: piece.iov_base, iov_len: len });
                front.len += len as u64;
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(len).cast();
                piece.iov_len -= len;
            }
            if piece.iov_len > 0 {
                break;
            }
            taken += 1;
        }
        self.iovecs.drain(..taken);
        self.len -= front.len;
        front
    }

    /// Takes the last byte.
    pub fn split_last_byte(&mut self) -> Option<Self> {
        let back = self.len.checked_sub(1)?;
        // As most drivers have it: in a piece of its own.
        if self.iovecs.last().is_some_and(|piece| piece.iov_len == 1)
            && let Some(last) = self.iovecs.pop()
        {
            self.len = back;
            return Some(Self { iovecs: Iovecs::from_iter([last]), len: 1 });
        }
        let front = self.split_front(back);
        Some(std::mem::replace(self, front))
    }

    /// Copies the beginning to `out`. Returns how much there was.
    pub fn read(&self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in &self.iovecs {
            let len = piece.iov_len.min(out.len() - done);
            piece_slice(piece, len).copy_to(&mut out[done..done + len]);
            done += len;
        }
        done
    }

    /// Copies `data` to the beginning. Returns how much there was room for.
    pub fn write(&self, data: &[u8]) -> usize {
        self.write_at(0, data)
    }

    /// Copies `data` to `offset` and on. Returns how much there was room for.
    pub fn write_at(&self, offset: usize, data: &[u8]) -> usize {
        let mut skip = offset;
        let mut done = 0;
        for piece in &self.iovecs {
            if skip >= piece.iov_len {
                skip -= piece.iov_len;
                continue;
            }
            let len = (piece.iov_len - skip).min(data.len() - done);
            let slice = piece_slice(piece, skip + len);
            if let Ok(slice) = slice.offset(skip) {
                slice.copy_from(&data[done..done + len]);
            }
            skip = 0;
            done += len;
        }
        done
    }
}

/// The first `len` bytes of a piece, at most all of it.
fn piece_slice(piece: &libc::iovec, len: usize) -> VolatileSlice<'_> {
    // SAFETY: a piece is mapped guest memory of `iov_len` bytes (see `Pieces`), `len` is at most
    // that, and a volatile slice allows for the guest writing at the same time.
    unsafe { VolatileSlice::new(piece.iov_base.cast::<u8>(), len.min(piece.iov_len)) }
}

/// A whole chain, checked: every byte of it is in guest memory.
#[derive(Debug)]
pub struct Buffers {
    /// Index of the first descriptor, by which the chain is given back.
    pub head: u16,
    /// What the driver wrote for the device.
    pub readable: Pieces,
    /// What the device writes for the driver.
    pub writable: Pieces,
}

impl Buffers {
    /// Walks a chain.
    ///
    /// # Errors
    /// If it ends before its last descriptor, runs in a circle, leaves guest memory, or has
    /// something readable after something writable.
    pub fn collect<M>(chain: DescriptorChain<M>, memory: &GuestMemory) -> Result<Self, BrokenRing>
    where
        M: Deref,
        M::Target: vm_memory::GuestMemory,
    {
        let mut buffers = Self {
            head: chain.head_index(),
            readable: Pieces::default(),
            writable: Pieces::default(),
        };
        let mut complete = false;
        for descriptor in chain {
            if descriptor.is_write_only() {
                buffers.writable.push(memory, descriptor.addr(), descriptor.len())?;
            } else if buffers.writable.iovecs.is_empty() {
                buffers.readable.push(memory, descriptor.addr(), descriptor.len())?;
            } else {
                return Err(BrokenRing("a readable buffer follows a writable one"));
            }
            complete = !descriptor.has_next();
        }
        if complete { Ok(buffers) } else { Err(BrokenRing("a descriptor chain has no end")) }
    }
}
