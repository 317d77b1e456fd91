//! Reference counts of every width inside a block's bytes.

/// Read count number `index` from a block of counts of `1 << order` bits.
pub(crate) fn get(block: &[u8], index: usize, order: u32) -> u64 {
    let bits = 1usize << order;
    if bits < 8 {
        let at = index * bits;
        let byte = block.get(at / 8).copied().unwrap_or(0);
        return u64::from(byte >> (at % 8)) & ((1 << bits) - 1);
    }
    let bytes = bits / 8;
    block
        .get(index * bytes..(index + 1) * bytes)
        .map_or(0, |b| b.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Write count number `index`; `value` fits the width (callers check against [`max`]).
pub(crate) fn set(block: &mut [u8], index: usize, order: u32, value: u64) {
    let bits = 1usize << order;
    if bits < 8 {
        let at = index * bits;
        let mask = ((1u16 << bits) - 1) as u8;
        if let Some(byte) = block.get_mut(at / 8) {
            *byte = *byte & !(mask << (at % 8)) | (value as u8 & mask) << (at % 8);
        }
        return;
    }
    let bytes = bits / 8;
    if let Some(slot) = block.get_mut(index * bytes..(index + 1) * bytes) {
        slot.copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
    }
}

/// The largest count a width can hold.
pub(crate) fn max(order: u32) -> u64 {
    if order >= 6 { u64::MAX } else { (1 << (1u32 << order)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_count_written_is_read_back_and_neighbours_stay(
            order in 0u32..=6,
            writes in proptest::collection::vec((0usize..64, any::<u64>()), 1..50),
        ) {
            let mut block = vec![0u8; 512];
            let mut model = vec![0u64; 64];
            for (index, value) in writes {
                let value = value & max(order);
                set(&mut block, index, order, value);
                model[index] = value;
                for (i, expected) in model.iter().enumerate() {
                    prop_assert_eq!(get(&block, i, order), *expected);
                }
            }
        }
    }
}
