//! Disk sizes and formulas against the published ones.

use catalog::{
    DiskCategory, Error, Performance, PerformanceLevel, burst_performance, disk_performance,
    instance_types, most_provisioned_iops, provisioned_performance, size_range,
};

const MIB: u64 = 1 << 20;

fn at(category: &str, level: Option<&str>, size: u32) -> (u64, u64) {
    let category = DiskCategory::parse(category).expect("category");
    let level = level.map(|name| PerformanceLevel::parse(name).expect("level"));
    let performance = disk_performance(category, level, size).expect("in range");
    (performance.iops, performance.bytes_per_second / MIB)
}

#[test]
fn formulas_are_the_published_ones() {
    assert_eq!(at("cloud_essd", Some("PL0"), 40), (2_280, 110));
    assert_eq!(at("cloud_essd", Some("PL0"), 32_768), (10_000, 180));
    assert_eq!(at("cloud_essd", Some("PL1"), 20), (2_800, 130));
    assert_eq!(at("cloud_essd", Some("PL1"), 100), (6_800, 170));
    assert_eq!(at("cloud_essd", Some("PL1"), 65_536), (50_000, 350));
    assert_eq!(at("cloud_essd", Some("PL2"), 461), (24_850, 350));
    assert_eq!(at("cloud_essd", Some("PL2"), 65_536), (100_000, 750));
    assert_eq!(at("cloud_essd", Some("PL3"), 1_261), (64_850, 750));
    assert_eq!(at("cloud_essd", Some("PL3"), 65_536), (1_000_000, 4_000));
    assert_eq!(at("cloud_auto", None, 1), (3_000, 125));
    assert_eq!(at("cloud_auto", None, 65_536), (50_000, 350));
    assert_eq!(at("cloud_ssd", None, 20), (2_400, 130));
    assert_eq!(at("cloud_ssd", None, 32_768), (25_000, 300));
    assert_eq!(at("cloud_efficiency", None, 20), (1_960, 103));
    assert_eq!(at("cloud_efficiency", None, 32_768), (5_000, 140));
    assert_eq!(at("cloud_essd_entry", None, 32_768), (6_000, 150));
    assert_eq!(at("cloud", None, 5), at("cloud", None, 2_000));
}

#[test]
fn every_category_has_its_sizes() {
    let sizes = |category, level| {
        let range = size_range(category, level).expect("has a range");
        (range.min_gib, range.max_gib)
    };
    let essd = |level| sizes(DiskCategory::CloudEssd, Some(level));
    assert_eq!(essd(PerformanceLevel::Pl0), (1, 65_536));
    assert_eq!(essd(PerformanceLevel::Pl1), (20, 65_536));
    assert_eq!(essd(PerformanceLevel::Pl2), (461, 65_536));
    assert_eq!(essd(PerformanceLevel::Pl3), (1_261, 65_536));
    assert_eq!(sizes(DiskCategory::CloudAuto, None), (1, 65_536));
    assert_eq!(sizes(DiskCategory::CloudEssdEntry, None), (10, 32_768));
    assert_eq!(sizes(DiskCategory::CloudSsd, None), (20, 32_768));
    assert_eq!(sizes(DiskCategory::CloudEfficiency, None), (20, 32_768));
    assert_eq!(sizes(DiskCategory::Cloud, None), (5, 2_000));
}

/// One GiB below the cap, at it, and one above.
#[test]
fn caps_are_reached_where_the_formulas_say() {
    assert_eq!(at("cloud_essd", Some("PL0"), 683).0, 9_996);
    assert_eq!(at("cloud_essd", Some("PL0"), 684).0, 10_000);
    assert_eq!(at("cloud_essd", Some("PL0"), 319).1, 179);
    assert_eq!(at("cloud_essd", Some("PL0"), 320).1, 180);
    assert_eq!(at("cloud_essd", Some("PL1"), 963), (49_950, 350));
    assert_eq!(at("cloud_essd", Some("PL1"), 964), (50_000, 350));
    assert_eq!(at("cloud_essd", Some("PL2"), 1_963).0, 99_950);
    assert_eq!(at("cloud_essd", Some("PL2"), 1_964).0, 100_000);
    assert_eq!(at("cloud_essd", Some("PL3"), 19_963).0, 999_950);
    assert_eq!(at("cloud_essd", Some("PL3"), 19_964).0, 1_000_000);
    assert_eq!(at("cloud_essd", Some("PL3"), 7_760).1, 4_000);
    assert_eq!(at("cloud_auto", None, 24), (3_000, 132));
    assert_eq!(at("cloud_auto", None, 25), (3_050, 132));
    assert_eq!(at("cloud_ssd", None, 773).0, 24_990);
    assert_eq!(at("cloud_ssd", None, 774).0, 25_000);
    assert_eq!(at("cloud_efficiency", None, 399).0, 4_992);
    assert_eq!(at("cloud_efficiency", None, 400).0, 5_000);
    assert_eq!(at("cloud_essd_entry", None, 524).0, 5_992);
    assert_eq!(at("cloud_essd_entry", None, 525).0, 6_000);
}

#[test]
fn auto_disks_can_have_more_than_their_baseline() {
    let mib = |performance: Performance| {
        (performance.iops, performance.bytes_per_second as f64 / MIB as f64)
    };
    assert_eq!(most_provisioned_iops(3), Ok(0));
    assert_eq!(most_provisioned_iops(4), Ok(1_000));
    assert_eq!(most_provisioned_iops(40), Ok(40_000 - 3_800));
    assert_eq!(most_provisioned_iops(65_536), Ok(50_000));
    assert_eq!(provisioned_performance(40, 0), disk_performance(DiskCategory::CloudAuto, None, 40));
    // 140 MB/s and 16 KB for each of the 6400.
    assert_eq!(provisioned_performance(40, 6_400).map(mib), Ok((10_200, 240.0)));
    assert_eq!(provisioned_performance(65_536, 50_000).map(mib), Ok((100_000, 1_131.25)));
    assert_eq!(burst_performance(3, 0), disk_performance(DiskCategory::CloudAuto, None, 3));
    assert_eq!(burst_performance(4, 0).map(mib), Ok((4_000, 125.0)));
    assert_eq!(burst_performance(64, 0).map(mib), Ok((64_000, 1_000.0)));
    assert_eq!(burst_performance(65_536, 50_000).map(mib), Ok((1_000_000, 4_096.0)));
    for (size, provisioned, most) in [(3, 1, 0), (40, 36_201, 36_200), (2_000, u64::MAX, 50_000)] {
        let error = provisioned_performance(size, provisioned).expect_err("too many");
        assert!(error.to_string().contains(&format!("up to {most} ")), "{error}");
        assert_eq!(burst_performance(size, provisioned), Err(error));
    }
    assert!(matches!(most_provisioned_iops(0), Err(Error::Size { .. })));
    assert!(matches!(burst_performance(65_537, 0), Err(Error::Size { .. })));
}

#[test]
fn an_essd_without_level_is_pl1_or_pl0_when_small() {
    assert_eq!(at("cloud_essd", None, 40), at("cloud_essd", Some("PL1"), 40));
    assert_eq!(at("cloud_essd", None, 19), at("cloud_essd", Some("PL0"), 19));
}

#[test]
fn a_larger_disk_is_never_slower() {
    for category in DiskCategory::ALL {
        let levels: &[Option<PerformanceLevel>] = if category.has_levels() {
            &[
                Some(PerformanceLevel::Pl0),
                Some(PerformanceLevel::Pl1),
                Some(PerformanceLevel::Pl2),
                Some(PerformanceLevel::Pl3),
            ]
        } else {
            &[None]
        };
        for &level in levels {
            let range = size_range(category, level).expect("has a range");
            let mut last = (0, 0);
            for size in range.min_gib..=range.max_gib {
                let now = disk_performance(category, level, size).expect("in range");
                assert!(now.iops >= last.0 && now.bytes_per_second >= last.1);
                last = (now.iops, now.bytes_per_second);
            }
        }
    }
}

#[test]
fn sizes_out_of_range_are_refused_with_the_range() {
    for (category, level, size) in [
        (DiskCategory::CloudEssd, Some(PerformanceLevel::Pl1), 19),
        (DiskCategory::CloudEssd, Some(PerformanceLevel::Pl2), 460),
        (DiskCategory::CloudEssd, Some(PerformanceLevel::Pl3), 1_260),
        (DiskCategory::CloudEssd, None, 0),
        (DiskCategory::CloudEssd, None, 65_537),
        (DiskCategory::CloudEssd, None, u32::MAX),
        (DiskCategory::Cloud, None, 2_001),
        (DiskCategory::CloudSsd, None, 19),
    ] {
        let error = disk_performance(category, level, size).expect_err("out of range");
        let Error::Size { range, .. } = &error else { panic!("{error:?}") };
        assert!(error.to_string().contains(&range.max_gib.to_string()), "{error}");
        assert!(error.to_string().contains("choose"), "{error}");
    }
}

#[test]
fn levels_belong_to_essd_only() {
    assert_eq!(
        disk_performance(DiskCategory::CloudAuto, Some(PerformanceLevel::Pl1), 40),
        Err(Error::LevelNotSupported(DiskCategory::CloudAuto))
    );
    assert!(matches!(PerformanceLevel::parse("PL4"), Err(Error::UnknownLevel(_))));
    assert!(matches!(DiskCategory::parse("ssd"), Err(Error::UnknownCategory(_))));
    for category in DiskCategory::ALL {
        assert_eq!(DiskCategory::parse(category.as_str()), Ok(category));
    }
    assert!(instance_types().len() > 100);
}
