//! Instance families and types, disk categories and their performance formulas: data and
//! arithmetic, no I/O.
//!
//! # Where the figures are from
//!
//! 1. Alibaba Cloud's own documentation in its current form (help.aliyun.com, "general purpose",
//!    "compute optimized", "memory optimized", "GPU-accelerated", "ECS Bare Metal" and "burstable"
//!    instance families; [`Source::Documentation`]).
//! 2. The same documentation as of July 2021 (`AlibabaCloudDocs/ecs`, `Instance families.md`;
//!    [`Source::Documentation2021`]), for families that were not read in a newer form.
//! 3. The article this cloud's offer follows, "ECS — Compute That Actually Makes Sense"
//!    ([`Source::Article`]), for names that ECS itself does not have: its figures where it gives
//!    some, else none.
//!
//! A figure nobody publishes is `None`. It is never guessed, and nothing is limited by it.
//!
//! # Where sources disagree
//!
//! - Small 7th-generation types: 10 Gbit/s burst and 0.9 Mpps in 2021, 12.5 Gbit/s and 1.1 Mpps
//!   today; the same for their disk figures. The current page is taken.
//! - `gn7`: V100 in the article, A100 (40 GB) in the documentation. The documentation is taken.
//! - `ebmg7`, `ebmc7`: up to 65 Gbit/s in the article, 64 in the documentation, which is taken.
//! - `g8y.small`: 2 GiB in the article, 4 GiB in the documentation, which is taken. The `small`
//!   types of other families exist only in the article: 2 GiB for `g` and `c`, and 8 GiB for `r`,
//!   which is that family's ratio and what `r8y.small` has.
//! - `t5`: older pages have baselines of 10 % and 15 %, today's have 20 % and 25 %. Today's agree
//!   with the credits they list (baseline × vCPUs × 60 per hour) and are taken.
//! - Data disks per instance: the article says 16; the newest pages list 5 to 32 by type, but only
//!   for some families. 16 is taken for all ([`MAX_DATA_DISKS`]).

pub mod auto;
pub mod disk;
pub mod instance;

pub use auto::{burst_performance, most_provisioned_iops, provisioned_performance};
pub use disk::{
    DiskCategory, Error, Performance, PerformanceLevel, SizeRange, disk_performance, size_range,
};
pub use instance::{
    Architecture, Credits, DiskLimits, Family, Gpu, InstanceType, Level, MAX_DATA_DISKS, Network,
    Requirement, Source, families, family, instance_type, instance_types,
};
