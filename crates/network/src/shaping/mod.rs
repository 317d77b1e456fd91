//! How fast instances and public addresses may be.
//!
//! All that an instance sends, by whichever of its ENIs, makes a detour by way of one interface with
//! a rate, and all it receives by way of another. A public address has a class at each end of its
//! VPC's edge, which the filter assigns packets to.

mod classes;
mod instances;

pub(crate) use classes::{Classes, class_numbers};
pub(crate) use instances::{Shapers, is_queue_link};

use crate::netlink::Rate;

/// What a rate forgives without more than a packet's time: rounding of timers, and a packet that the
/// kernel cuts up only later.
const LEAST_BURST: u64 = 68 << 10;
/// A queue holds what the rate lets through in 50 ms.
const LEAST_QUEUE: u64 = 256 << 10;
const MOST_QUEUE: u64 = 16 << 20;
/// An instance that was idle for long may be as fast as its burst rate for so many seconds.
const CREDIT_SECONDS: u64 = 10;

fn saturated(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The queue for a rate, and for bursts at a higher one.
fn rate(kbits: u64, burst_kbits: u64) -> Rate {
    let bytes = |kbits: u64| kbits.saturating_mul(125);
    let at_once = |bytes: u64| saturated((bytes / 100).max(LEAST_BURST));
    let (sustained, peak) = (bytes(kbits), bytes(burst_kbits));
    let highest = sustained.max(peak);
    let queue_bytes = saturated((highest / 20).clamp(LEAST_QUEUE, MOST_QUEUE));
    if peak <= sustained {
        let burst_bytes = at_once(sustained);
        return Rate { bytes_per_second: sustained, burst_bytes, peak: None, queue_bytes };
    }
    let credit = (peak - sustained).saturating_mul(CREDIT_SECONDS).max(LEAST_BURST);
    Rate {
        bytes_per_second: sustained,
        burst_bytes: saturated(credit),
        peak: Some((peak, at_once(peak))),
        queue_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_bursts_only_where_the_burst_rate_is_higher() {
        let plain = rate(100_000, 0);
        assert_eq!((plain.bytes_per_second, plain.peak), (12_500_000, None));
        assert_eq!(rate(100_000, 100_000), plain);
        let bursting = rate(100_000, 300_000);
        assert_eq!(bursting.peak, Some((37_500_000, 375_000)));
        // 10 s at 200 Mbit/s more than it may for ever.
        assert_eq!(bursting.burst_bytes, 250_000_000);
        assert_eq!(rate(1_000_000, u64::MAX).burst_bytes, u32::MAX);
    }
}
