//! AES-256 in XTS mode (IEEE 1619) on sectors of 512 bytes. A whole sector goes to the processor's AES
//! units at once, which a block at a time would leave idle for most of the time.

use std::fmt;

use aes::Aes256;
use aes::cipher::array::Array;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// Bytes that are encrypted as one.
pub(crate) const SECTOR: u64 = 512;
/// Bytes of the two keys together.
pub(crate) const KEY_BYTES: usize = 64;
const BLOCK: usize = 16;
const BLOCKS: usize = SECTOR as usize / BLOCK;

/// One file's cipher. Its keys are erased when it goes.
pub(crate) struct Xts {
    data: Aes256,
    tweak: Aes256,
}

impl fmt::Debug for Xts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xts(..)")
    }
}

impl Xts {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        let (data, tweak) = key.split_at(KEY_BYTES / 2);
        let cipher = |half: &[u8]| {
            let mut key = Array::default();
            key.copy_from_slice(half);
            let cipher = Aes256::new(&key);
            zeroize::Zeroize::zeroize(key.as_mut_slice());
            cipher
        };
        Self { data: cipher(data), tweak: cipher(tweak) }
    }

    /// Encrypt whole sectors in place, the first of which has the number `sector`.
    pub(crate) fn encrypt(&self, sector: u64, data: &mut [u8]) {
        self.each(sector, data, |blocks| self.data.encrypt_blocks(blocks));
    }

    /// The other way round.
    pub(crate) fn decrypt(&self, sector: u64, data: &mut [u8]) {
        self.each(sector, data, |blocks| self.data.decrypt_blocks(blocks));
    }

    fn each(&self, first: u64, data: &mut [u8], cipher: impl Fn(&mut [aes::Block])) {
        debug_assert!(data.len().is_multiple_of(SECTOR as usize));
        for (sector, bytes) in (first..).zip(data.chunks_exact_mut(SECTOR as usize)) {
            let tweaks = self.tweaks(sector);
            let (blocks, _) = Array::slice_as_chunks_mut(bytes);
            let mask = |blocks: &mut [aes::Block]| {
                for (block, tweak) in blocks.iter_mut().zip(&tweaks) {
                    for (byte, mask) in block.iter_mut().zip(tweak.to_le_bytes()) {
                        *byte ^= mask;
                    }
                }
            };
            mask(blocks);
            cipher(blocks);
            mask(blocks);
        }
    }

    /// One for each block of a sector: the encrypted number, multiplied by x each time.
    fn tweaks(&self, sector: u64) -> [u128; BLOCKS] {
        let mut first = aes::Block::default();
        first[..8].copy_from_slice(&sector.to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let mut tweak = u128::from_le_bytes(first.into());
        let mut tweaks = [0; BLOCKS];
        for each in &mut tweaks {
            *each = tweak;
            tweak = tweak << 1 ^ if tweak >> 127 == 1 { 0x87 } else { 0 };
        }
        tweaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IEEE 1619-2007, annex B, vector 10: XTS-AES-256, data unit 0xff.
    #[test]
    fn the_standards_vector_comes_out() {
        let hex = |text: &str| -> Vec<u8> {
            let text = text.as_bytes();
            text.chunks(2)
                .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
                .collect()
        };
        let mut key = hex("2718281828459045235360287471352662497757247093699959574966967627");
        key.extend(hex("3141592653589793238462643383279502884197169399375105820974944592"));
        let clear: Vec<u8> = (0..512).map(|i| i as u8).collect();
        let xts = Xts::new(key.as_slice().try_into().unwrap());
        let mut data = clear.clone();
        xts.encrypt(0xff, &mut data);
        assert_eq!(
            data[..32],
            hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b")
        );
        assert_eq!(data[496..], hex("c4f36ffda9fcea70b9c6e693e148c151"));
        xts.decrypt(0xff, &mut data);
        assert_eq!(data, clear);
    }

    #[test]
    fn each_sector_is_encrypted_by_its_number() {
        let xts = Xts::new(&std::array::from_fn(|i| i as u8));
        let mut both = vec![7; 1024];
        xts.encrypt(5, &mut both);
        let mut second = vec![7; 512];
        xts.encrypt(6, &mut second);
        assert_eq!(both[512..], second);
        assert_ne!(both[..512], second);
    }
}
