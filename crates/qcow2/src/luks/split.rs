//! LUKS' anti-forensic splitter: a key spread over so many bytes that losing any of them loses it, so
//! that a medium that keeps a part of a deleted key slot keeps nothing.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::KEY_BYTES;

/// Times a key's length that it takes; QEMU reads no other number. Unit tests have no time for so many.
pub(super) const STRIPES: usize = if cfg!(test) { 8 } else { 4000 };
/// Bytes of a split key.
pub(super) const BYTES: usize = STRIPES * KEY_BYTES;

/// Spread `key`. `bytes`, of length [`BYTES`], are random and become the split key.
pub(super) fn split(key: &[u8; KEY_BYTES], bytes: &mut [u8]) {
    let (random, last) = bytes.split_at_mut((STRIPES - 1) * KEY_BYTES);
    let sum = combine(random);
    for (byte, (sum, key)) in last.iter_mut().zip(sum.iter().zip(key)) {
        *byte = sum ^ key;
    }
}

/// The key of `bytes`, of length [`BYTES`].
pub(super) fn merge(bytes: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let (random, last) = bytes.split_at((STRIPES - 1) * KEY_BYTES);
    let mut key = combine(random);
    for (byte, last) in key.iter_mut().zip(last) {
        *byte ^= last;
    }
    key
}

fn combine(stripes: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut sum = Zeroizing::new([0; KEY_BYTES]);
    for stripe in stripes.chunks_exact(KEY_BYTES) {
        for (sum, byte) in sum.iter_mut().zip(stripe) {
            *sum ^= byte;
        }
        for (number, part) in (0u32..).zip(sum.chunks_exact_mut(32)) {
            let digest = Sha256::new().chain_update(number.to_be_bytes()).chain_update(&*part);
            part.copy_from_slice(&digest.finalize());
        }
    }
    sum
}
