//! What a driver reads of a network interface, and the features it may choose from.

use crate::{config::NicShape, virtio::device::RING_FEATURES};

/// Entries of a data queue.
pub const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue.
pub const CONTROL_QUEUE_SIZE: u16 = 64;
/// Bytes of `struct virtio_net_hdr_v1`, which every packet starts with.
pub const HEADER_LEN: usize = 12;
/// Where the number of buffers is in it.
pub const NUM_BUFFERS_OFFSET: usize = 10;
/// Bytes of an Ethernet header with a VLAN tag.
pub const ETHERNET_LEN: u64 = 18;
/// The largest packet segmentation offload makes, its headers included.
pub const LARGEST_PACKET: u64 = 65_550;

/// Feature bits.
pub const F_CSUM: u64 = 1;
pub const F_GUEST_CSUM: u64 = 1 << 1;
pub const F_MTU: u64 = 1 << 3;
pub const F_MAC: u64 = 1 << 5;
pub const F_GUEST_TSO4: u64 = 1 << 7;
pub const F_GUEST_TSO6: u64 = 1 << 8;
pub const F_GUEST_ECN: u64 = 1 << 9;
pub const F_HOST_TSO4: u64 = 1 << 11;
pub const F_HOST_TSO6: u64 = 1 << 12;
pub const F_HOST_ECN: u64 = 1 << 13;
pub const F_MRG_RXBUF: u64 = 1 << 15;
pub const F_STATUS: u64 = 1 << 16;
pub const F_CTRL_VQ: u64 = 1 << 17;
pub const F_MQ: u64 = 1 << 22;

/// Bit of the status that says there is a link.
const STATUS_LINK_UP: u16 = 1;

/// What a driver reads of an interface.
impl NicShape {
    /// Features an interface offers.
    pub fn features(&self) -> u64 {
        let mut features = RING_FEATURES | F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS;
        features |= F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
        features |= F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;
        if self.pairs > 1 {
            features |= F_CTRL_VQ | F_MQ;
        }
        features
    }

    /// `struct virtio_net_config`.
    pub fn to_bytes(self, link_up: bool) -> Vec<u8> {
        let mut bytes = self.mac.to_vec();
        bytes.extend(if link_up { STATUS_LINK_UP } else { 0 }.to_le_bytes());
        bytes.extend(self.pairs.to_le_bytes());
        bytes.extend(self.mtu.to_le_bytes());
        bytes
    }

    /// Entries of each queue: receive and transmit by turns, then the control queue if there is
    /// one.
    pub fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * usize::from(self.pairs)];
        if self.pairs > 1 {
            sizes.push(CONTROL_QUEUE_SIZE);
        }
        sizes
    }

    /// Which queue is the control queue, if driver and device agreed on one.
    pub fn control_queue(&self, features: u64) -> Option<usize> {
        match (features & F_CTRL_VQ != 0, features & F_MQ != 0) {
            (false, _) => None,
            (true, true) => Some(2 * usize::from(self.pairs)),
            (true, false) => Some(2),
        }
    }
}
