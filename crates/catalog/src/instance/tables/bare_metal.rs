//! ECS Bare Metal families.

use super::Row;

/// help.aliyun.com, ECS Bare Metal: ebmg7 and ebmc7, one type each.
pub(super) fn rows(out: &mut Vec<Row>) {
    for (family, gib) in [("ecs.ebmg7", 512), ("ecs.ebmc7", 256)] {
        out.push(Row {
            net_mbps: [64_000, 0],
            pps: 24_000_000,
            connections: 2_400_000,
            enis: 32,
            ips_per_eni: 20,
            disk_iops: [600_000, 0],
            disk_mbps: [32_000, 0],
            ..Row::new(family, "32xlarge", 128, gib * 1024)
        });
    }
}
