//! The two checksums of ext4 and its journal.

/// CRC-32C without the final inversion, least significant bit first.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ if value & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(seed, |sum, byte| (sum >> 8) ^ TABLE[usize::from(*byte ^ sum as u8)])
}

/// CRC-32 without inversions, most significant bit first, as journals without metadata checksums
/// may have it.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = (byte as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                value = (value << 1) ^ if value >> 31 == 1 { 0x04c1_1db7 } else { 0 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(seed, |sum, byte| (sum << 8) ^ TABLE[usize::from(*byte ^ (sum >> 24) as u8)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_the_catalogue() {
        assert_eq!(crc32c(!0, b"123456789"), !0xe306_9283);
        // CRC-32/MPEG-2 has the same polynomial and seed.
        assert_eq!(crc32_be(!0, b"123456789"), 0x0376_e6e7);
    }
}
