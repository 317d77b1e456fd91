//! What this host offers to guests.

use crate::{config::Config, layout::Layout};
use api::host::HostCapacity;
use std::fs;

/// Kept for the host itself: the agent, VMM overheads, page cache.
const RESERVE_MIN_MIB: u64 = 256;
const RESERVE_SHARE: u64 = 16;
const GIB: u64 = 1 << 30;

/// Measures the host; flags override.
pub fn detect(config: &Config, layout: &Layout) -> HostCapacity {
    let vcpus = config.vcpus.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
    });
    let memory_mib = config.memory_mib.unwrap_or_else(|| {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        offered_memory(total_memory_mib(&text))
    });
    let disk_gib = rustix::fs::statvfs(layout.state())
        .map_or(0, |s| s.f_frsize.saturating_mul(s.f_blocks) / GIB);
    HostCapacity { vcpus, memory_mib, disk_gib }
}

fn offered_memory(total_mib: u64) -> u64 {
    total_mib.saturating_sub(RESERVE_MIN_MIB.max(total_mib / RESERVE_SHARE))
}

fn total_memory_mib(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_a_reserve() {
        assert_eq!(total_memory_mib("MemTotal:       4194304 kB\nMemFree: 1 kB\n"), 4096);
        assert_eq!(offered_memory(2048), 1792);
        assert_eq!(offered_memory(64 * 1024), 60 * 1024);
        assert_eq!(offered_memory(100), 0);
        assert_eq!(total_memory_mib(""), 0);
    }
}
