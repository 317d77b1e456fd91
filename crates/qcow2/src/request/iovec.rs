//! Slicing and copying of iovec lists.

use libc::iovec;
use smallvec::SmallVec;

/// The memory of a request. A small request's pieces need no memory of their own.
pub type Iovecs = SmallVec<[iovec; 4]>;

/// iovecs the host takes in one call.
pub(crate) const MAX_IOVECS: usize = 1024;

/// The part `[skip, skip + len)` of the memory `iovecs` names.
pub(crate) fn slice(iovecs: &[iovec], skip: u64, len: u64) -> Iovecs {
    let (mut skip, mut len) = (skip as usize, len as usize);
    let mut out = Iovecs::new();
    for iov in iovecs {
        if len == 0 {
            break;
        }
        if skip >= iov.iov_len {
            skip -= iov.iov_len;
            continue;
        }
        let part = (iov.iov_len - skip).min(len);
        out.push(iovec { iov_base: iov.iov_base.wrapping_byte_add(skip), iov_len: part });
        len -= part;
        skip = 0;
    }
    out
}

/// Drop the first `done` bytes of an iovec list.
pub(crate) fn advance(iovecs: &mut Iovecs, mut done: usize) {
    let mut gone = 0;
    for iov in iovecs.iter_mut() {
        if done < iov.iov_len {
            iov.iov_base = iov.iov_base.wrapping_byte_add(done);
            iov.iov_len -= done;
            break;
        }
        done -= iov.iov_len;
        gone += 1;
    }
    iovecs.drain(..gone);
}

/// Total length in bytes; None when it overflows.
pub(crate) fn total(iovecs: &[iovec]) -> Option<u64> {
    iovecs.iter().try_fold(0u64, |sum, iov| sum.checked_add(iov.iov_len as u64))
}

/// Fill with zeroes.
///
/// # Safety
/// The iovecs name memory that may be written.
pub(crate) unsafe fn fill_zero(iovecs: &[iovec]) {
    for iov in iovecs {
        // SAFETY: the caller vouches for the memory.
        unsafe { std::ptr::write_bytes(iov.iov_base.cast::<u8>(), 0, iov.iov_len) };
    }
}

/// Copy `bytes` into the iovecs, which are as long.
///
/// # Safety
/// The iovecs name memory that may be written.
pub(crate) unsafe fn scatter(bytes: &[u8], iovecs: &[iovec]) {
    let mut at = 0;
    for iov in iovecs {
        let Some(part) = bytes.get(at..at + iov.iov_len) else { return };
        // SAFETY: the caller vouches for the destination; `part` is as long as copied and is the
        // engine's own memory, which never overlaps guest memory.
        unsafe {
            std::ptr::copy_nonoverlapping(part.as_ptr(), iov.iov_base.cast::<u8>(), part.len());
        }
        at += iov.iov_len;
    }
}

/// A copy of what the iovecs name.
///
/// # Safety
/// The iovecs name memory that may be read.
pub(crate) unsafe fn gather(iovecs: &[iovec]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(iovecs.iter().map(|iov| iov.iov_len).sum());
    for iov in iovecs {
        let at = bytes.len();
        // SAFETY: the caller vouches for the source, and there is room for all of it: it was summed up
        // above. The guest may write to it meanwhile, so that no reference to it is made.
        unsafe {
            let to: *mut u8 = bytes.as_mut_ptr();
            std::ptr::copy_nonoverlapping(iov.iov_base.cast::<u8>(), to.add(at), iov.iov_len);
            bytes.set_len(at + iov.iov_len);
        }
    }
    bytes
}
