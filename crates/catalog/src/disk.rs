//! Disk categories, their sizes and their performance.
//!
//! Formulas: "Block storage performance" (2021: `EBS performance.md`) and "ESSD AutoPL disks".
//! Sizes: `CreateDisk`. Older pages say 32 TiB where `CreateDisk` now says 64; `CreateDisk` is taken.

use thiserror::Error;

/// What a disk can deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Performance {
    /// I/O operations per second.
    pub iops: u64,
    /// Bytes per second. The published MB are taken as 2^20 bytes, so that a guest that counts in
    /// either unit sees at least the published figure.
    pub bytes_per_second: u64,
}

/// Sizes in GiB, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    /// The least.
    pub min_gib: u32,
    /// The most.
    pub max_gib: u32,
}

impl SizeRange {
    /// Whether a disk can have this size.
    pub fn contains(self, size_gib: u32) -> bool {
        (self.min_gib..=self.max_gib).contains(&size_gib)
    }
}

/// Why a disk cannot be as asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// `InvalidDiskCategory.NotSupported` or `InvalidSystemDiskCategory.ValueNotSupported`.
    #[error(
        "disk category {0:?} does not exist; use cloud_essd, cloud_auto, cloud_essd_entry, cloud_ssd, cloud_efficiency or cloud"
    )]
    UnknownCategory(String),
    /// `InvalidPerformanceLevel.Malformed`.
    #[error("performance level {0:?} does not exist; use PL0, PL1, PL2 or PL3")]
    UnknownLevel(String),
    /// A level on a category without levels.
    #[error("{category} has no performance levels; leave the level out or use cloud_essd", category = .0.as_str())]
    LevelNotSupported(DiskCategory),
    /// `InvalidDiskSize.NotSupported` or `InvalidSystemDiskSize`.
    #[error(
        "a {category}{level} disk has {min} to {max} GiB, not {size_gib}; choose a size in that range{hint}",
        category = .category.as_str(),
        level = .level.map(|level| format!(" {}", level.as_str())).unwrap_or_default(),
        min = .range.min_gib,
        max = .range.max_gib,
        hint = if .level.is_some() { " or another performance level" } else { "" },
    )]
    Size {
        /// The category.
        category: DiskCategory,
        /// The level, for `cloud_essd`.
        level: Option<PerformanceLevel>,
        /// The size asked for.
        size_gib: u32,
        /// The sizes there are.
        range: SizeRange,
    },
    /// More `ProvisionedIops` than a `cloud_auto` disk of this size can have.
    #[error(
        "a cloud_auto disk of {size_gib} GiB can have up to {most} provisioned IOPS, not {provisioned_iops}; ask for less or for a larger disk"
    )]
    ProvisionedIops {
        /// The size asked for.
        size_gib: u32,
        /// What was asked for.
        provisioned_iops: u64,
        /// The most there is at that size.
        most: u64,
    },
}

/// `Category` of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskCategory {
    /// Basic disk.
    Cloud,
    /// Ultra disk.
    CloudEfficiency,
    /// Standard SSD.
    CloudSsd,
    /// ESSD, with performance levels.
    CloudEssd,
    /// ESSD AutoPL.
    CloudAuto,
    /// ESSD Entry.
    CloudEssdEntry,
}

impl DiskCategory {
    /// Every category.
    pub const ALL: [DiskCategory; 6] = [
        DiskCategory::Cloud,
        DiskCategory::CloudEfficiency,
        DiskCategory::CloudSsd,
        DiskCategory::CloudEssd,
        DiskCategory::CloudAuto,
        DiskCategory::CloudEssdEntry,
    ];

    /// The category with this name in the API.
    ///
    /// # Errors
    /// [`Error::UnknownCategory`].
    pub fn parse(name: &str) -> Result<DiskCategory, Error> {
        Self::ALL
            .into_iter()
            .find(|category| category.as_str() == name)
            .ok_or_else(|| Error::UnknownCategory(name.to_owned()))
    }

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskCategory::Cloud => "cloud",
            DiskCategory::CloudEfficiency => "cloud_efficiency",
            DiskCategory::CloudSsd => "cloud_ssd",
            DiskCategory::CloudEssd => "cloud_essd",
            DiskCategory::CloudAuto => "cloud_auto",
            DiskCategory::CloudEssdEntry => "cloud_essd_entry",
        }
    }

    /// Whether disks of it have a performance level.
    pub fn has_levels(self) -> bool {
        self == DiskCategory::CloudEssd
    }
}

/// `PerformanceLevel` of a `cloud_essd` disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PerformanceLevel {
    /// PL0.
    Pl0,
    /// PL1, the default.
    Pl1,
    /// PL2.
    Pl2,
    /// PL3.
    Pl3,
}

impl PerformanceLevel {
    /// Every level, from slow to fast.
    pub const ALL: [PerformanceLevel; 4] = [
        PerformanceLevel::Pl0,
        PerformanceLevel::Pl1,
        PerformanceLevel::Pl2,
        PerformanceLevel::Pl3,
    ];

    /// The level with this name in the API.
    ///
    /// # Errors
    /// [`Error::UnknownLevel`].
    pub fn parse(name: &str) -> Result<PerformanceLevel, Error> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == name)
            .ok_or_else(|| Error::UnknownLevel(name.to_owned()))
    }

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            PerformanceLevel::Pl0 => "PL0",
            PerformanceLevel::Pl1 => "PL1",
            PerformanceLevel::Pl2 => "PL2",
            PerformanceLevel::Pl3 => "PL3",
        }
    }

    /// The level of a disk for which none was asked: PL1, or PL0 where the disk is too small for PL1.
    pub fn default_for(size_gib: u32) -> PerformanceLevel {
        if level_range(PerformanceLevel::Pl1).contains(size_gib) || size_gib > 65_536 {
            PerformanceLevel::Pl1
        } else {
            PerformanceLevel::Pl0
        }
    }
}

/// The sizes a disk can have (`CreateDisk`). `level` counts for `cloud_essd` only; without one its
/// widest range, PL0's, is meant.
///
/// # Errors
/// [`Error::LevelNotSupported`] for a level on another category.
pub fn size_range(
    category: DiskCategory,
    level: Option<PerformanceLevel>,
) -> Result<SizeRange, Error> {
    if level.is_some() && !category.has_levels() {
        return Err(Error::LevelNotSupported(category));
    }
    let (min_gib, max_gib) = match category {
        DiskCategory::Cloud => (5, 2_000),
        DiskCategory::CloudEfficiency | DiskCategory::CloudSsd => (20, 32_768),
        DiskCategory::CloudEssd => return Ok(level_range(level.unwrap_or(PerformanceLevel::Pl0))),
        DiskCategory::CloudAuto => (1, 65_536),
        DiskCategory::CloudEssdEntry => (10, 32_768),
    };
    Ok(SizeRange { min_gib, max_gib })
}

fn level_range(level: PerformanceLevel) -> SizeRange {
    let min_gib = match level {
        PerformanceLevel::Pl0 => 1,
        PerformanceLevel::Pl1 => 20,
        PerformanceLevel::Pl2 => 461,
        PerformanceLevel::Pl3 => 1_261,
    };
    SizeRange { min_gib, max_gib: 65_536 }
}

/// `base + slope × GiB`, between `least` and `most`, for IOPS and for MB/s (in hundredths).
struct Formula {
    iops: [u64; 3],
    iops_least: u64,
    centi_mb: [u64; 3],
    centi_mb_least: u64,
}

impl Formula {
    /// Both as (base, slope, most).
    const fn new(iops: [u64; 3], centi_mb: [u64; 3]) -> Formula {
        Formula { iops, iops_least: 0, centi_mb, centi_mb_least: 0 }
    }

    fn at(&self, size_gib: u32) -> Performance {
        let line = |[base, slope, most]: [u64; 3], least: u64| {
            (base + slope * u64::from(size_gib)).min(most).max(least)
        };
        let centi_mb = line(self.centi_mb, self.centi_mb_least);
        Performance {
            iops: line(self.iops, self.iops_least),
            bytes_per_second: centi_mb * (1 << 20) / 100,
        }
    }
}

/// What a disk of this category, level and size delivers ("Block storage performance"; the baseline
/// of `cloud_auto` from "ESSD AutoPL disks"). Without a level, a `cloud_essd` disk has
/// [`PerformanceLevel::default_for`] its size.
///
/// Basic disks are published as several hundred IOPS and 30 to 40 MB/s at any size, without a
/// formula: 300 IOPS and 30 MB/s are taken.
///
/// # Errors
/// [`Error::LevelNotSupported`], [`Error::Size`].
pub fn disk_performance(
    category: DiskCategory,
    level: Option<PerformanceLevel>,
    size_gib: u32,
) -> Result<Performance, Error> {
    let level = match level {
        None if category.has_levels() => Some(PerformanceLevel::default_for(size_gib)),
        given => given,
    };
    let range = size_range(category, level)?;
    if !range.contains(size_gib) {
        return Err(Error::Size { category, level, size_gib, range });
    }
    let formula = match category {
        DiskCategory::Cloud => Formula::new([300, 0, 300], [3_000, 0, 3_000]),
        DiskCategory::CloudEfficiency => Formula::new([1_800, 8, 5_000], [10_000, 15, 14_000]),
        DiskCategory::CloudSsd => Formula::new([1_800, 30, 25_000], [12_000, 50, 30_000]),
        DiskCategory::CloudEssdEntry => Formula::new([1_800, 8, 6_000], [10_000, 15, 15_000]),
        DiskCategory::CloudAuto => Formula {
            iops_least: 3_000,
            centi_mb_least: 12_500,
            ..Formula::new([1_800, 50, 50_000], [12_000, 50, 35_000])
        },
        DiskCategory::CloudEssd => match level.unwrap_or(PerformanceLevel::Pl1) {
            PerformanceLevel::Pl0 => Formula::new([1_800, 12, 10_000], [10_000, 25, 18_000]),
            PerformanceLevel::Pl1 => Formula::new([1_800, 50, 50_000], [12_000, 50, 35_000]),
            PerformanceLevel::Pl2 => Formula::new([1_800, 50, 100_000], [12_000, 50, 75_000]),
            PerformanceLevel::Pl3 => Formula::new([1_800, 50, 1_000_000], [12_000, 50, 400_000]),
        },
    };
    Ok(formula.at(size_gib))
}
