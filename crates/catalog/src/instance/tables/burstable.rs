//! Burstable and other shared families.

use super::super::Source;
use super::Row;

/// size, vCPUs, MiB, baseline percent, network Mbit/s base and burst, packets per second, queues,
/// interfaces, IPs per interface.
type Line = (&'static str, u32, u64, u32, [u64; 2], u64, u32, u32, u32);

/// help.aliyun.com, burstable instance families: t6.
#[rustfmt::skip]
const T6: &[Line] = &[
    ("c4m1.large", 2, 512, 5, [80, 400], 40_000, 1, 2, 2),
    ("c2m1.large", 2, 1024, 10, [80, 600], 60_000, 1, 2, 2),
    ("c1m1.large", 2, 2048, 20, [80, 1_000], 100_000, 1, 2, 2),
    ("c1m2.large", 2, 4096, 20, [80, 1_000], 100_000, 1, 2, 2),
    ("c1m4.large", 2, 8192, 30, [80, 1_000], 100_000, 1, 2, 2),
    ("c1m4.xlarge", 4, 16_384, 40, [160, 2_000], 200_000, 1, 2, 6),
    ("c1m4.2xlarge", 8, 32_768, 40, [320, 4_000], 400_000, 2, 2, 6),
];

/// help.aliyun.com, the same page: t5.
#[rustfmt::skip]
const T5: &[Line] = &[
    ("lc2m1.nano", 1, 512, 20, [100, 0], 40_000, 1, 2, 2),
    ("lc1m1.small", 1, 1024, 20, [200, 0], 60_000, 1, 2, 2),
    ("lc1m2.small", 1, 2048, 20, [200, 0], 60_000, 1, 2, 2),
    ("lc1m2.large", 2, 4096, 20, [400, 0], 100_000, 1, 2, 2),
    ("lc1m4.large", 2, 8192, 20, [400, 0], 100_000, 1, 2, 2),
    ("c1m1.large", 2, 2048, 25, [500, 0], 100_000, 1, 2, 2),
    ("c1m2.large", 2, 4096, 25, [500, 0], 100_000, 1, 2, 2),
    ("c1m4.large", 2, 8192, 25, [500, 0], 100_000, 1, 2, 2),
    ("c1m1.xlarge", 4, 4096, 25, [800, 0], 200_000, 1, 2, 6),
    ("c1m2.xlarge", 4, 8192, 25, [800, 0], 200_000, 1, 2, 6),
    ("c1m4.xlarge", 4, 16_384, 25, [800, 0], 200_000, 1, 2, 6),
    ("c1m1.2xlarge", 8, 8192, 25, [1_200, 0], 400_000, 1, 2, 6),
    ("c1m2.2xlarge", 8, 16_384, 25, [1_200, 0], 400_000, 1, 2, 6),
    ("c1m4.2xlarge", 8, 32_768, 25, [1_200, 0], 400_000, 1, 2, 6),
    ("c1m1.4xlarge", 16, 16_384, 25, [1_200, 0], 600_000, 2, 2, 6),
    ("c1m2.4xlarge", 16, 32_768, 25, [1_200, 0], 600_000, 2, 2, 6),
];

/// The article's name for the shape of `ecs.t6-c1m2.large`, with that type's figures.
const ARTICLE_T6: &[Line] = &[("large", 2, 4096, 20, [80, 1_000], 100_000, 1, 2, 2)];

/// Shared instance families, 2021: xn4.
const XN4: &[Line] = &[("small", 1, 1024, 0, [500, 0], 50_000, 1, 2, 2)];

pub(super) fn rows(out: &mut Vec<Row>) {
    extend(out, "ecs.t6", T6, Source::Documentation);
    extend(out, "ecs.t6", ARTICLE_T6, Source::Article);
    extend(out, "ecs.t5", T5, Source::Documentation);
    extend(out, "ecs.xn4", XN4, Source::Documentation2021);
}

fn extend(out: &mut Vec<Row>, family: &'static str, lines: &[Line], source: Source) {
    for &(size, vcpus, mib, baseline, net, pps, queues, enis, ips) in lines {
        out.push(Row {
            net_mbps: net,
            pps,
            nic_queues: queues,
            enis,
            ips_per_eni: ips,
            // The pages of xn4 and its generation say that they have no IPv6.
            ipv6s_per_eni: (family == "ecs.xn4").then_some(0),
            baseline_percent: baseline,
            source,
            ..Row::new(family, size, vcpus, mib)
        });
    }
}
