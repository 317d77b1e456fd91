//! What a hostile guest can do to a queue, without a machine around it: one function for fuzzers
//! and for the tests of this crate.

use super::{
    block::{Geometry, Request, rehearse},
    chain::Pieces,
    device::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1},
    net::{Store, pairs_wanted},
    ring::{Ring, Used},
    rng::fill,
};
use crate::memory::GuestMemory;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of guest memory a run has, in two regions with a hole between.
pub const MEMORY: usize = 0x2_0000;
const REGION: usize = MEMORY / 2;
const SECOND_REGION: u64 = 0x4_0000;
/// Bytes at the beginning of the input that describe the queue.
const SETUP: usize = 16;
const QUEUE_MAX: u16 = 64;
/// More chains than this cannot be taken without the ring being refilled.
const ROUNDS: usize = 4;

/// Guest memory for any number of runs.
///
/// # Panics
/// Never with the constants above.
pub fn memory() -> Option<GuestMemory> {
    let ranges = [(GuestAddress(0), REGION), (GuestAddress(SECOND_REGION), REGION)];
    GuestMemory::from_ranges(&ranges).ok()
}

/// Reads `input` as the set-up of a queue and the content of `memory`, and handles what it says as
/// a disk, a network interface and an entropy device would. Returns how many chains were taken.
pub fn run(memory: &GuestMemory, input: &[u8]) -> usize {
    let (setup, content) = input.split_at(input.len().min(SETUP));
    let byte = |at: usize| setup.get(at).copied().unwrap_or(0);
    let (low, high) = content.split_at(content.len().min(REGION));
    let high = &high[..high.len().min(REGION)];
    if memory.write_slice(low, GuestAddress(0)).is_err()
        || memory.write_slice(high, GuestAddress(SECOND_REGION)).is_err()
    {
        return 0;
    }
    let mut chains = 0;
    for device in 0..4 {
        let Some(mut ring) = ring(memory, &byte) else { return chains };
        chains += drive(&mut ring, device, byte(15));
    }
    chains
}

fn ring(memory: &GuestMemory, byte: &dyn Fn(usize) -> u8) -> Option<Ring> {
    let mut queue = Queue::new(QUEUE_MAX).ok()?;
    queue.set_size(1 << (byte(0) % 7));
    let address = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2) & 7, 0]);
    queue.set_desc_table_address(Some(address(1) & !0xf), Some(0));
    queue.set_avail_ring_address(Some(address(4) & !1), Some(0));
    queue.set_used_ring_address(Some(address(7) & !3), Some(0));
    queue.set_event_idx(byte(10) & 1 != 0);
    queue.set_next_avail(u16::from_le_bytes([byte(11), byte(12)]));
    queue.set_next_used(u16::from_le_bytes([byte(13), byte(14)]));
    queue.set_ready(true);
    Ring::new(queue, memory.clone()).ok()
}

fn drive(ring: &mut Ring, device: u8, choice: u8) -> usize {
    let disk = Geometry { sectors: 64, read_only: choice & 1 != 0, queues: 1 };
    let features = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | u64::from(choice) << 8;
    let mut store = Store::new(features, 1500);
    let mut taken = 0;
    for _ in 0..ROUNDS * usize::from(QUEUE_MAX) {
        ring.disable_doorbell();
        let Ok(Some(buffers)) = ring.pop() else { break };
        taken += 1;
        let mut used = vec![Used { head: buffers.head, len: 0 }];
        match device {
            0 => match Request::parse(buffers, &disk) {
                Ok(request) => used[0].len = rehearse(&request),
                Err(_) => break,
            },
            1 => {
                used.clear();
                if store.add(buffers).is_err() {
                    break;
                }
                let mut target = Vec::new();
                store.target(&mut target);
                let room: usize = target.iter().map(|piece| piece.iov_len).sum();
                store.filled(room as u64, &mut used);
            }
            2 => used[0].len = fill(&buffers.writable) as u32,
            _ => {
                let known = pairs_wanted(&buffers, 2).is_some();
                used[0].len = acknowledge(&buffers.writable, known);
            }
        }
        if ring.publish(&used).is_err() || ring.should_interrupt().is_err() {
            break;
        }
        if ring.enable_doorbell() != Ok(true) {
            break;
        }
    }
    taken
}

fn acknowledge(writable: &Pieces, known: bool) -> u32 {
    writable.write(&[u8::from(!known)]) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// xorshift64*: the same sequence at every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        fn below(&mut self, end: usize) -> usize {
            (self.next() % end as u64) as usize
        }
    }

    const DESC: usize = 0;
    const AVAIL: usize = 0x1000;
    const USED: usize = 0x2000;
    const HEADERS: usize = 0x3000;

    /// A queue of sound chains: header, data, status.
    fn sound(random: &mut Random) -> Vec<u8> {
        let mut input = vec![0; SETUP + MEMORY];
        input[0] = 6;
        input[1..4].copy_from_slice(&(DESC as u32).to_le_bytes()[..3]);
        input[4..7].copy_from_slice(&(AVAIL as u32).to_le_bytes()[..3]);
        input[7..10].copy_from_slice(&(USED as u32).to_le_bytes()[..3]);
        input[10] = random.below(2) as u8;
        input[15] = random.below(256) as u8;
        let memory = &mut input[SETUP..];
        for chain in 0..20 {
            let data = 0x4000 + 0x200 * random.below(0x60);
            let kind = [0u32, 1, 4, 8, 11, 13, 4][random.below(7)];
            let header = HEADERS + 32 * chain;
            memory[header..header + 4].copy_from_slice(&kind.to_le_bytes());
            memory[header + 8] = random.below(80) as u8;
            let write = u16::from(matches!(kind, 0 | 8)) * 2;
            let parts = [
                (header, 16, 1, 3 * chain + 1),
                (data, [512, 1024, 16, 20][random.below(4)], 1 | write, 3 * chain + 2),
                (header + 31, 1, 2, 0),
            ];
            for (number, (addr, len, flags, next)) in parts.into_iter().enumerate() {
                let at = DESC + 16 * (3 * chain + number);
                memory[at..at + 8].copy_from_slice(&(addr as u64).to_le_bytes());
                memory[at + 8..at + 12].copy_from_slice(&(len as u32).to_le_bytes());
                memory[at + 12..at + 14].copy_from_slice(&flags.to_le_bytes());
                memory[at + 14..at + 16].copy_from_slice(&(next as u16).to_le_bytes());
            }
            let slot = AVAIL + 4 + 2 * chain;
            memory[slot..slot + 2].copy_from_slice(&(3 * chain as u16).to_le_bytes());
        }
        memory[AVAIL + 2] = 20;
        input
    }

    #[test]
    fn sound_rings_are_taken_to_the_end() {
        let memory = memory().unwrap();
        let taken = run(&memory, &sound(&mut Random(1)));
        assert!(taken >= 20, "{taken}");
    }

    #[test]
    fn hostile_rings_neither_panic_nor_hang() {
        let memory = memory().unwrap();
        let mut random = Random(0x5eed);
        let end = Instant::now() + Duration::from_secs(2);
        let (mut runs, mut chains) = (0, 0);
        while Instant::now() < end {
            let mut input = sound(&mut random);
            // Mutate a few bytes where they matter most, or throw everything away.
            match random.below(8) {
                0 => input.iter_mut().for_each(|byte| *byte = random.next() as u8),
                1 => input.truncate(random.below(input.len())),
                _ => {
                    for _ in 0..1 + random.below(12) {
                        let at = match random.below(4) {
                            0 => random.below(SETUP),
                            1 => SETUP + DESC + random.below(0x400),
                            2 => SETUP + AVAIL + random.below(0x90),
                            _ => SETUP + HEADERS + random.below(0x400),
                        };
                        input[at] = [0, 1, 0x7f, 0xff, random.next() as u8][random.below(5)];
                    }
                }
            }
            let start = Instant::now();
            chains += run(&memory, &input);
            runs += 1;
            assert!(start.elapsed() < Duration::from_secs(2), "run {runs} took too long");
        }
        assert!(runs > 50 && chains > runs, "{runs} runs took {chains} chains");
    }
}
