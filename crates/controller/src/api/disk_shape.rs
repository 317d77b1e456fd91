//! Category, performance level and size of a disk, and the limits that follow from them.

use crate::ecs_error::{invalid, refuse};
use catalog::{DiskCategory, PerformanceLevel};
use store::{DiskRecord, Refusal};

/// Statuses and codes that one action has for what is wrong.
pub(super) struct Codes {
    pub category: &'static str,
    pub size: (u16, &'static str),
}

/// Of system disks of new instances.
pub(super) const SYSTEM: Codes = Codes {
    category: "InvalidSystemDiskCategory.ValueNotSupported",
    size: (400, "InvalidSystemDiskSize.ValueNotSupported"),
};
/// Of data disks.
pub(super) const DATA: Codes = Codes {
    category: "InvalidDataDiskCategory.ValueNotSupported",
    size: (400, "InvalidDataDiskSize.ValueNotSupported"),
};
/// Of `ModifyDiskSpec`.
pub(super) const SPEC: Codes = Codes {
    category: "InvalidDiskCategory.ValueNotSupported",
    size: (403, "OperationDenied.PerformanceLevelNotMatch"),
};
/// Of `ResizeDisk`.
pub(super) const RESIZE: Codes = Codes {
    category: "InvalidDataDiskCategory.ValueNotSupported",
    size: (403, "InvalidDiskSize.TooLarge"),
};

/// Category and performance level of a disk.
pub(super) struct Shape {
    category: DiskCategory,
    level: Option<PerformanceLevel>,
}

impl Shape {
    /// `cloud_essd` is the default category.
    pub fn parse(category: &str, level: &str, codes: &Codes) -> Result<Self, Refusal> {
        let category = if category.is_empty() {
            DiskCategory::CloudEssd
        } else {
            DiskCategory::parse(category)
                .map_err(|error| refuse(400, codes.category, error.to_string()))?
        };
        let level = if level.is_empty() {
            None
        } else {
            let level = PerformanceLevel::parse(level).map_err(|error| {
                refuse(400, "InvalidPerformanceLevel.Malformed", error.to_string())
            })?;
            if !category.has_levels() {
                return Err(refuse(
                    400,
                    "InvalidPerformanceLevel.Malformed",
                    catalog::Error::LevelNotSupported(category).to_string(),
                ));
            }
            Some(level)
        };
        Ok(Self { category, level })
    }

    /// Refuses what only `cloud_auto` disks have.
    pub fn check_extras(&self, provisioned_iops: u64, bursting: bool) -> Result<(), Refusal> {
        if self.category == DiskCategory::CloudAuto || (provisioned_iops == 0 && !bursting) {
            return Ok(());
        }
        let what = if bursting { "bursts" } else { "provisioned IOPS" };
        Err(refuse(
            400,
            "InvalidParameter.Conflict",
            format!(
                "a {} disk has no {what}; use cloud_auto, or leave them out",
                self.category.as_str()
            ),
        ))
    }

    /// The least size there is.
    pub fn least(&self) -> Result<u32, Refusal> {
        catalog::size_range(self.category, self.level)
            .map(|range| range.min_gib)
            .map_err(|error| invalid(error.to_string()))
    }

    /// Gives a disk this shape and a size, and the limits of both and of what the disk says it has
    /// beyond its baseline. Another category than `cloud_auto` has nothing beyond it.
    pub fn give(&self, disk: &mut DiskRecord, size_gib: u32, codes: &Codes) -> Result<(), Refusal> {
        let (status, code) = codes.size;
        if self.category != DiskCategory::CloudAuto {
            (disk.provisioned_iops, disk.bursting_enabled) = (0, false);
        }
        let performance = match (self.category, disk.bursting_enabled) {
            (DiskCategory::CloudAuto, false) => {
                catalog::provisioned_performance(size_gib, disk.provisioned_iops)
            }
            (DiskCategory::CloudAuto, true) => {
                catalog::burst_performance(size_gib, disk.provisioned_iops)
            }
            _ => catalog::disk_performance(self.category, self.level, size_gib),
        };
        let performance = performance.map_err(|error| match error {
            catalog::Error::ProvisionedIops { .. } => {
                refuse(400, "InvalidProvisionedIops.LimitExceeded", error.to_string())
            }
            error => refuse(status, code, error.to_string()),
        })?;
        let level = match self.level {
            None if self.category.has_levels() => Some(PerformanceLevel::default_for(size_gib)),
            given => given,
        };
        self.category.as_str().clone_into(&mut disk.category);
        level.map_or("", PerformanceLevel::as_str).clone_into(&mut disk.performance_level);
        disk.size_gib = size_gib.into();
        disk.iops = performance.iops;
        disk.bytes_per_second = performance.bytes_per_second;
        Ok(())
    }
}
