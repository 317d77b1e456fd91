//! GPU-accelerated families.

use super::super::{Gpu, Source};
use super::Row;

/// size, vCPUs, GiB, GPUs, network Mbit/s, packets per second, queues, interfaces, IPs per
/// interface, disk IOPS.
type Line = (&'static str, u32, u64, u32, u64, u64, u32, u32, u32, u64);

/// help.aliyun.com, GPU-accelerated: gn7i.
#[rustfmt::skip]
const GN7I: &[Line] = &[
    ("c8g1.2xlarge", 8, 30, 1, 16_000, 1_600_000, 8, 4, 15, 0),
    ("c16g1.4xlarge", 16, 60, 1, 16_000, 3_000_000, 8, 8, 30, 0),
    ("c32g1.8xlarge", 32, 188, 1, 16_000, 6_000_000, 12, 8, 30, 0),
    ("c32g1.16xlarge", 64, 376, 2, 32_000, 12_000_000, 16, 15, 30, 0),
    ("c32g1.32xlarge", 128, 752, 4, 64_000, 24_000_000, 32, 15, 30, 0),
    ("c48g1.12xlarge", 48, 310, 1, 16_000, 9_000_000, 16, 8, 30, 0),
    ("c56g1.14xlarge", 56, 346, 1, 16_000, 10_000_000, 16, 8, 30, 0),
    ("2x.8xlarge", 32, 128, 2, 16_000, 6_000_000, 16, 8, 30, 0),
    ("4x.8xlarge", 32, 128, 4, 32_000, 6_000_000, 16, 8, 30, 0),
    ("4x.16xlarge", 64, 256, 4, 64_000, 12_000_000, 32, 8, 30, 0),
    ("8x.16xlarge", 64, 256, 8, 32_000, 12_000_000, 32, 8, 30, 0),
    ("8x.32xlarge", 128, 512, 8, 64_000, 24_000_000, 32, 16, 30, 0),
];

/// help.aliyun.com, GPU-accelerated: gn7.
#[rustfmt::skip]
const GN7: &[Line] = &[
    ("c12g1.3xlarge", 12, 94, 1, 4_000, 2_500_000, 4, 8, 10, 0),
    ("c13g1.13xlarge", 52, 378, 4, 16_000, 9_000_000, 16, 8, 30, 0),
    ("c13g1.26xlarge", 104, 756, 8, 30_000, 18_000_000, 16, 15, 10, 0),
];

/// help.aliyun.com, GPU-accelerated: gn6i.
#[rustfmt::skip]
const GN6I: &[Line] = &[
    ("c4g1.xlarge", 4, 15, 1, 4_000, 2_500_000, 2, 2, 10, 0),
    ("c8g1.2xlarge", 8, 31, 1, 5_000, 2_500_000, 2, 2, 10, 0),
    ("c16g1.4xlarge", 16, 62, 1, 6_000, 2_500_000, 4, 3, 10, 0),
    ("c24g1.6xlarge", 24, 93, 1, 7_500, 2_500_000, 6, 4, 10, 0),
    ("c40g1.10xlarge", 40, 155, 1, 10_000, 1_600_000, 16, 10, 10, 0),
    ("c24g1.12xlarge", 48, 186, 2, 15_000, 4_500_000, 12, 6, 10, 0),
    ("c24g1.24xlarge", 96, 372, 4, 30_000, 4_500_000, 24, 8, 10, 250_000),
];

/// Instance families.md, 2021: gn6v.
#[rustfmt::skip]
const GN6V: &[Line] = &[
    ("c8g1.2xlarge", 8, 32, 1, 2_500, 800_000, 4, 4, 10, 0),
    ("c8g1.8xlarge", 32, 128, 4, 10_000, 2_000_000, 8, 8, 20, 0),
    ("c8g1.16xlarge", 64, 256, 8, 20_000, 2_500_000, 16, 8, 20, 0),
    ("c10g1.20xlarge", 82, 336, 8, 32_000, 4_500_000, 16, 8, 20, 250_000),
];

const A10: Gpu = Gpu { amount: 1, model: "NVIDIA A10", memory_gb: 24 };
const A100: Gpu = Gpu { amount: 1, model: "NVIDIA A100", memory_gb: 40 };
const T4: Gpu = Gpu { amount: 1, model: "NVIDIA T4", memory_gb: 16 };
const V100: Gpu = Gpu { amount: 1, model: "NVIDIA V100", memory_gb: 16 };

pub(super) fn rows(out: &mut Vec<Row>) {
    extend(out, "ecs.gn7i", A10, GN7I, Source::Documentation);
    extend(out, "ecs.gn7", A100, GN7, Source::Documentation);
    extend(out, "ecs.gn6i", T4, GN6I, Source::Documentation);
    extend(out, "ecs.gn6v", V100, GN6V, Source::Documentation2021);
    // The article's two GPU sizes: it gives vCPUs and GPUs, and no memory.
    out.push(Row {
        gpu: Some(A10),
        source: Source::Article,
        ..Row::new("ecs.gn7i", "xlarge", 4, 0)
    });
    out.push(Row {
        gpu: Some(Gpu { amount: 8, ..V100 }),
        source: Source::Article,
        ..Row::new("ecs.gn7", "8xlarge", 32, 0)
    });
}

fn extend(out: &mut Vec<Row>, family: &'static str, gpu: Gpu, lines: &[Line], source: Source) {
    for &(size, vcpus, gib, gpus, net, pps, queues, enis, ips, iops) in lines {
        out.push(Row {
            net_mbps: [net, 0],
            pps,
            nic_queues: queues,
            enis,
            ips_per_eni: ips,
            // Of the smaller gn7i types no figure is at hand.
            ipv6s_per_eni: match (family, ips) {
                (_, 30) => Some(30),
                ("ecs.gn7i", _) => None,
                _ => Some(1),
            },
            disk_iops: [iops, 0],
            gpu: Some(Gpu { amount: gpus, ..gpu }),
            source,
            ..Row::new(family, size, vcpus, gib * 1024)
        });
    }
}
