//! Disks of a new instance: category, level and size, and what follows from them.

use crate::{
    ecs_error::{invalid, missing, refuse, unsupported},
    validation,
};
use api::v1::{DataDisk, SystemDisk};
use catalog::{DiskCategory, PerformanceLevel};
use store::{DiskRecord, ImageRecord, Refusal};

pub(super) fn system_disk(
    wanted: &SystemDisk,
    image: &ImageRecord,
    image_gib: u64,
) -> Result<DiskRecord, Refusal> {
    let shape = Shape::parse(&wanted.category, &wanted.performance_level, "SystemDisk")?;
    let least = shape.least()?;
    let size_gib = if wanted.size == 0 {
        u32::try_from(image_gib).unwrap_or(u32::MAX).max(least)
    } else {
        wanted.size
    };
    if u64::from(size_gib) < image_gib {
        return Err(refuse(
            400,
            "InvalidSystemDiskSize.LessThanImageSize",
            format!(
                "the system disk would have {size_gib} GiB, image {} needs {image_gib}",
                image.image_id
            ),
        ));
    }
    let names = (wanted.disk_name.as_str(), wanted.description.as_str());
    shape.disk(0, size_gib, &image.image_id, names, "InvalidSystemDiskSize.ValueNotSupported")
}

pub(super) fn data_disk(wanted: &DataDisk, index: usize) -> Result<DiskRecord, Refusal> {
    if !wanted.snapshot_id.is_empty() {
        return Err(refuse(
            404,
            "InvalidSnapshotId.NotFound",
            format!("snapshot {} does not exist", wanted.snapshot_id),
        ));
    }
    if wanted.delete_with_instance == Some(false) {
        return Err(unsupported(
            "data disks cannot outlive their instance yet; leave delete_with_instance out",
        ));
    }
    let shape = Shape::parse(&wanted.category, &wanted.performance_level, "DataDisk")?;
    if wanted.size == 0 {
        return Err(missing(&format!("data_disk[{index}].size")));
    }
    let position = u32::try_from(index + 1).unwrap_or(u32::MAX);
    let names = (wanted.disk_name.as_str(), wanted.description.as_str());
    shape.disk(position, wanted.size, "", names, "InvalidDataDiskSize.ValueNotSupported")
}

/// Category and performance level of a disk.
struct Shape {
    category: DiskCategory,
    level: Option<PerformanceLevel>,
}

impl Shape {
    fn parse(category: &str, level: &str, which: &str) -> Result<Self, Refusal> {
        let code = if which == "SystemDisk" {
            "InvalidSystemDiskCategory.ValueNotSupported"
        } else {
            "InvalidDataDiskCategory.ValueNotSupported"
        };
        let category = if category.is_empty() {
            DiskCategory::CloudEssd
        } else {
            DiskCategory::parse(category).map_err(|error| refuse(400, code, error.to_string()))?
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

    fn least(&self) -> Result<u32, Refusal> {
        catalog::size_range(self.category, self.level)
            .map(|range| range.min_gib)
            .map_err(|error| invalid(error.to_string()))
    }

    fn disk(
        &self,
        position: u32,
        size_gib: u32,
        image_id: &str,
        (name, description): (&str, &str),
        size_code: &'static str,
    ) -> Result<DiskRecord, Refusal> {
        validation::display_name("InvalidDiskName.Malformed", "disk name", name)?;
        validation::description("InvalidDiskDescription.Malformed", description)?;
        let performance = catalog::disk_performance(self.category, self.level, size_gib)
            .map_err(|error| refuse(400, size_code, error.to_string()))?;
        let level = match self.level {
            None if self.category.has_levels() => Some(PerformanceLevel::default_for(size_gib)),
            given => given,
        };
        Ok(DiskRecord {
            disk_id: String::new(),
            instance_id: String::new(),
            position,
            name: name.to_owned(),
            description: description.to_owned(),
            category: self.category.as_str().to_owned(),
            performance_level: level.map_or("", PerformanceLevel::as_str).to_owned(),
            size_gib: size_gib.into(),
            image_id: image_id.to_owned(),
            iops: performance.iops,
            bytes_per_second: performance.bytes_per_second,
            zone_id: String::new(),
            delete_with_instance: true,
            generation: 1,
            reported_state: String::new(),
            reported_message: String::new(),
            created_ms: 0,
        })
    }
}
