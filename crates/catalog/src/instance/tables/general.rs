//! General purpose, compute optimized and memory optimized families. Families of one generation
//! share their figures and differ in memory.

use super::super::Source;
use super::Row;

/// size, vCPUs, GiB of g c r (0: no such type), network Mbit/s base and burst, packets per second,
/// connections, queues, interfaces, IPs per interface, disk IOPS base and burst, disk Mbit/s base
/// and burst.
type Line = (&'static str, u32, [u64; 3], [u64; 2], u64, u64, u32, u32, u32, [u64; 2], [u64; 2]);

/// help.aliyun.com, general purpose, compute optimized, memory optimized: g7, c7, r7.
#[rustfmt::skip]
const SEVENTH: &[Line] = &[
    ("large", 2, [8, 4, 16], [2_000, 12_500], 1_100_000, 500_000, 2, 3, 6, [20_000, 160_000], [1_500, 10_000]),
    ("xlarge", 4, [16, 8, 32], [3_000, 12_500], 1_100_000, 500_000, 4, 4, 15, [40_000, 160_000], [2_000, 10_000]),
    ("2xlarge", 8, [32, 16, 64], [5_000, 15_000], 1_600_000, 500_000, 8, 4, 15, [50_000, 160_000], [3_000, 10_000]),
    ("3xlarge", 12, [48, 24, 96], [8_000, 15_000], 2_400_000, 500_000, 8, 8, 15, [70_000, 160_000], [4_000, 10_000]),
    ("4xlarge", 16, [64, 32, 128], [10_000, 25_000], 3_000_000, 500_000, 8, 8, 30, [80_000, 160_000], [5_000, 10_000]),
    ("6xlarge", 24, [96, 48, 192], [12_000, 25_000], 4_500_000, 550_000, 12, 8, 30, [110_000, 160_000], [6_000, 10_000]),
    ("8xlarge", 32, [128, 64, 256], [16_000, 32_000], 6_000_000, 600_000, 16, 8, 30, [160_000, 0], [10_000, 0]),
    ("16xlarge", 64, [256, 128, 0], [32_000, 0], 12_000_000, 1_200_000, 32, 8, 30, [360_000, 0], [16_000, 0]),
    // r7's page has 20 Gbit/s to disks here, where g7 and c7 have 16.
    ("16xlarge", 64, [0, 0, 512], [32_000, 0], 12_000_000, 1_200_000, 32, 8, 30, [360_000, 0], [20_000, 0]),
    ("32xlarge", 128, [512, 256, 1024], [64_000, 0], 24_000_000, 2_400_000, 32, 15, 30, [600_000, 0], [32_000, 0]),
];

/// help.aliyun.com, the same pages: g8i, c8i, r8i.
#[rustfmt::skip]
const EIGHTH_INTEL: &[Line] = &[
    ("large", 2, [8, 4, 16], [2_500, 15_000], 1_000_000, 300_000, 2, 3, 6, [25_000, 200_000], [2_000, 10_000]),
    ("xlarge", 4, [16, 8, 32], [4_000, 15_000], 1_200_000, 300_000, 4, 4, 15, [50_000, 200_000], [2_500, 10_000]),
    ("2xlarge", 8, [32, 16, 64], [6_000, 15_000], 1_600_000, 300_000, 8, 4, 15, [60_000, 200_000], [4_000, 10_000]),
    ("3xlarge", 12, [48, 24, 96], [10_000, 15_000], 2_400_000, 300_000, 12, 8, 15, [80_000, 200_000], [5_000, 10_000]),
    ("4xlarge", 16, [64, 32, 128], [12_000, 25_000], 3_000_000, 350_000, 16, 8, 30, [100_000, 200_000], [6_000, 10_000]),
    ("6xlarge", 24, [96, 48, 192], [15_000, 25_000], 4_500_000, 500_000, 24, 8, 30, [120_000, 200_000], [7_500, 10_000]),
    ("8xlarge", 32, [128, 64, 256], [20_000, 25_000], 6_000_000, 800_000, 32, 8, 30, [200_000, 0], [10_000, 0]),
    ("12xlarge", 48, [192, 96, 384], [25_000, 0], 9_000_000, 1_000_000, 48, 8, 30, [300_000, 0], [12_000, 0]),
    ("16xlarge", 64, [256, 128, 512], [32_000, 0], 12_000_000, 1_600_000, 64, 8, 30, [360_000, 0], [20_000, 0]),
    ("24xlarge", 96, [384, 192, 0], [50_000, 0], 18_000_000, 2_000_000, 64, 15, 30, [500_000, 0], [24_000, 0]),
    ("32xlarge", 128, [0, 0, 1024], [64_000, 0], 24_000_000, 3_000_000, 64, 15, 30, [700_000, 0], [40_000, 0]),
    ("48xlarge", 192, [1024, 512, 0], [100_000, 0], 30_000_000, 4_000_000, 64, 15, 50, [1_000_000, 0], [48_000, 0]),
];

/// help.aliyun.com, the same pages: g8y, c8y, r8y.
#[rustfmt::skip]
const EIGHTH_YITIAN: &[Line] = &[
    ("small", 1, [4, 2, 8], [1_000, 10_000], 500_000, 250_000, 1, 2, 3, [10_000, 110_000], [1_000, 10_000]),
    ("large", 2, [8, 4, 16], [2_000, 10_000], 900_000, 250_000, 2, 3, 6, [20_000, 110_000], [1_500, 10_000]),
    ("xlarge", 4, [16, 8, 32], [3_000, 10_000], 1_000_000, 250_000, 4, 4, 15, [40_000, 110_000], [2_000, 10_000]),
    ("2xlarge", 8, [32, 16, 64], [5_000, 10_000], 1_600_000, 250_000, 8, 4, 15, [50_000, 110_000], [3_000, 10_000]),
    ("4xlarge", 16, [64, 32, 128], [10_000, 25_000], 3_000_000, 400_000, 16, 8, 30, [80_000, 110_000], [5_000, 10_000]),
    ("8xlarge", 32, [128, 64, 256], [16_000, 25_000], 5_000_000, 750_000, 32, 8, 30, [125_000, 0], [10_000, 0]),
    ("16xlarge", 64, [256, 128, 512], [32_000, 0], 10_000_000, 1_500_000, 64, 8, 30, [250_000, 0], [16_000, 0]),
    ("32xlarge", 128, [512, 256, 1024], [64_000, 0], 20_000_000, 3_000_000, 64, 15, 30, [500_000, 0], [32_000, 0]),
];

/// Instance families.md, 2021: g6, c6, r6.
#[rustfmt::skip]
const SIXTH: &[Line] = &[
    ("large", 2, [8, 4, 16], [1_000, 3_000], 300_000, 250_000, 2, 2, 6, [10_000, 0], [1_000, 0]),
    ("xlarge", 4, [16, 8, 32], [1_500, 5_000], 500_000, 250_000, 4, 3, 10, [20_000, 0], [1_500, 0]),
    ("2xlarge", 8, [32, 16, 64], [2_500, 8_000], 800_000, 250_000, 8, 4, 10, [25_000, 0], [2_000, 0]),
    ("3xlarge", 12, [48, 24, 96], [4_000, 10_000], 900_000, 250_000, 8, 6, 10, [30_000, 0], [2_500, 0]),
    ("4xlarge", 16, [64, 32, 128], [5_000, 10_000], 1_000_000, 300_000, 8, 8, 20, [40_000, 0], [3_000, 0]),
    ("6xlarge", 24, [96, 48, 192], [7_500, 10_000], 1_500_000, 450_000, 12, 8, 20, [50_000, 0], [4_000, 0]),
    ("8xlarge", 32, [128, 64, 256], [10_000, 0], 2_000_000, 600_000, 16, 8, 20, [60_000, 0], [5_000, 0]),
    ("13xlarge", 52, [192, 96, 384], [12_500, 0], 3_000_000, 900_000, 32, 7, 20, [100_000, 0], [8_000, 0]),
    ("26xlarge", 104, [384, 192, 768], [25_000, 0], 6_000_000, 1_800_000, 32, 15, 20, [200_000, 0], [16_000, 0]),
];

/// The article's `small`, in families whose pages have none: g c r.
const ARTICLE_SMALL: &[Line] = &[("small", 1, [2, 2, 8], [0, 0], 0, 0, 0, 0, 0, [0, 0], [0, 0])];

pub(super) fn rows(out: &mut Vec<Row>) {
    let seventh = ["ecs.g7", "ecs.c7", "ecs.r7"];
    let eighth = ["ecs.g8i", "ecs.c8i", "ecs.r8i"];
    let yitian = ["ecs.g8y", "ecs.c8y", "ecs.r8y"];
    let sixth = ["ecs.g6", "ecs.c6", "ecs.r6"];
    extend(out, seventh, SEVENTH, Source::Documentation, as_ipv4);
    extend(out, eighth, EIGHTH_INTEL, Source::Documentation, as_ipv4);
    extend(out, yitian, EIGHTH_YITIAN, Source::Documentation, as_ipv4);
    extend(out, sixth, SIXTH, Source::Documentation2021, |_| Some(1));
    extend(out, seventh, ARTICLE_SMALL, Source::Article, |_| None);
    extend(out, eighth, ARTICLE_SMALL, Source::Article, |_| None);
}

/// From the seventh generation on an interface has as many IPv6 addresses as private IPv4 ones.
fn as_ipv4(ips: u32) -> Option<u32> {
    Some(ips)
}

fn extend(
    out: &mut Vec<Row>,
    families: [&'static str; 3],
    lines: &[Line],
    source: Source,
    ipv6s: fn(u32) -> Option<u32>,
) {
    for (at, family) in families.into_iter().enumerate() {
        for &(size, vcpus, gib, net, pps, connections, queues, enis, ips, iops, disk) in lines {
            if gib[at] == 0 {
                continue;
            }
            out.push(Row {
                net_mbps: net,
                pps,
                connections,
                nic_queues: queues,
                enis,
                ips_per_eni: ips,
                ipv6s_per_eni: ipv6s(ips),
                disk_iops: iops,
                disk_mbps: disk,
                source,
                ..Row::new(family, size, vcpus, gib[at] * 1024)
            });
        }
    }
}
