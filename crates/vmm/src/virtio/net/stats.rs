//! Counters of one interface. Only the data path in this process counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Packets and bytes, each way.
#[derive(Debug, Default)]
pub struct Counters {
    received: Direction,
    sent: Direction,
}

#[derive(Debug, Default)]
struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Direction {
    fn add(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Counters {
    /// Packets went to the guest.
    pub fn received(&self, packets: u64, bytes: u64) {
        self.received.add(packets, bytes);
    }

    /// Packets came from the guest.
    pub fn sent(&self, packets: u64, bytes: u64) {
        self.sent.add(packets, bytes);
    }

    /// All counters, for `eni_id`.
    pub fn snapshot(&self, eni_id: &str) -> api::vmm::NicStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        api::vmm::NicStats {
            eni_id: eni_id.to_owned(),
            rx_packets: get(&self.received.packets),
            rx_bytes: get(&self.received.bytes),
            tx_packets: get(&self.sent.packets),
            tx_bytes: get(&self.sent.bytes),
        }
    }
}
