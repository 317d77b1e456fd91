//! The catalog against the figures it was made from.

use std::collections::HashSet;

use catalog::{
    Architecture, Level, Requirement, Source, families, family, instance_type, instance_types,
};

fn get(id: &str) -> &'static catalog::InstanceType {
    instance_type(id).expect(id)
}

#[test]
fn every_family_of_the_article_is_there_with_types() {
    for name in [
        "g7", "g8i", "g8y", "c7", "c8i", "c8y", "r7", "r8i", "r8y", "gn7i", "gn7", "gn6v", "t6",
        "ebmg7", "ebmc7",
    ] {
        let id = format!("ecs.{name}");
        assert!(family(&id).is_some(), "{id}");
        assert!(instance_types().iter().any(|one| one.family == id), "{id} has no types");
    }
}

#[test]
fn every_size_of_the_article_is_there_in_every_family_with_sizes() {
    for name in ["g7", "g8i", "g8y", "c7", "c8i", "c8y", "r7", "r8i", "r8y"] {
        for (size, vcpus) in [
            ("small", 1),
            ("large", 2),
            ("xlarge", 4),
            ("2xlarge", 8),
            ("4xlarge", 16),
            ("8xlarge", 32),
            ("16xlarge", 64),
        ] {
            assert_eq!(get(&format!("ecs.{name}.{size}")).vcpus, vcpus);
        }
    }
}

#[test]
fn every_type_the_article_recommends_is_there() {
    for (id, vcpus, gib) in [
        ("ecs.c7.large", 2, 4.0),
        ("ecs.g7.xlarge", 4, 16.0),
        ("ecs.r7.2xlarge", 8, 64.0),
        ("ecs.r7.xlarge", 4, 32.0),
        ("ecs.c8y.xlarge", 4, 8.0),
        ("ecs.t6.large", 2, 4.0),
        ("ecs.r6.8xlarge", 32, 256.0),
        ("ecs.gn7i.xlarge", 4, 0.0),
        ("ecs.gn7.8xlarge", 32, 0.0),
    ] {
        let one = get(id);
        assert_eq!((one.vcpus, one.memory_gib()), (vcpus, gib), "{id}");
    }
}

#[test]
fn ids_are_unique_and_well_formed() {
    let mut seen = HashSet::new();
    for one in instance_types() {
        assert!(seen.insert(&one.id), "{} twice", one.id);
        assert!(one.id.starts_with(one.family), "{} in {}", one.id, one.family);
        assert_eq!(one.family().id, one.family);
        assert_eq!(one.id.matches('.').count(), 2, "{}", one.id);
        assert!(one.vcpus > 0 && one.max_data_disks == 16);
    }
    let mut seen = HashSet::new();
    assert!(families().iter().all(|one| seen.insert(one.id)));
    assert!(instance_type("ecs.g7").is_none());
    assert!(instance_type("").is_none());
}

#[test]
fn memory_follows_the_ratio_of_the_family() {
    for one in instance_types() {
        let Some(ratio) = one.family().memory_ratio else { continue };
        // The published exceptions, and the article's `small`.
        let exception = one.source == Source::Article
            || one.id.ends_with(".48xlarge")
            || one.id.ends_with(".13xlarge")
            || one.id.ends_with(".26xlarge");
        if !exception {
            assert_eq!(one.memory_mib, u64::from(one.vcpus * ratio) * 1024, "{}", one.id);
        }
    }
}

#[test]
fn figures_are_the_published_ones() {
    let one = get("ecs.c7.large");
    assert_eq!(one.network.base_kbps, Some(2_000_000));
    assert_eq!(one.network.burst_kbps, Some(12_500_000));
    assert_eq!(one.network.pps, Some(1_100_000));
    assert_eq!(one.network.connections, Some(500_000));
    assert_eq!((one.nic_queues, one.enis, one.ips_per_eni), (Some(2), Some(3), Some(6)));
    assert_eq!((one.disk.base_iops, one.disk.burst_iops), (Some(20_000), Some(160_000)));
    assert_eq!((one.disk.base_kbps, one.disk.burst_kbps), (Some(1_500_000), Some(10_000_000)));
    assert_eq!((one.level, one.architecture), (Level::EnterpriseLevel, Architecture::X86));

    assert_eq!(one.ipv6s_per_eni, Some(6));

    let one = get("ecs.g6.26xlarge");
    assert_eq!(one.ipv6s_per_eni, Some(1));
    assert_eq!(get("ecs.xn4.small").ipv6s_per_eni, Some(0), "it has no IPv6");
    assert_eq!((one.vcpus, one.memory_mib), (104, 384 * 1024));
    assert_eq!((one.network.base_kbps, one.network.burst_kbps), (Some(25_000_000), None));
    assert_eq!((one.enis, one.ips_per_eni), (Some(15), Some(20)));
    assert_eq!(one.source, Source::Documentation2021);

    let one = get("ecs.gn6v-c8g1.16xlarge");
    let gpu = one.gpu.expect("has GPUs");
    assert_eq!((gpu.amount, gpu.model, gpu.memory_gb), (8, "NVIDIA V100", 16));
    assert_eq!(one.gpu_spec(), "NVIDIA V100");

    let one = get("ecs.g7.small");
    assert_eq!((one.vcpus, one.memory_mib, one.source), (1, 2048, Source::Article));
    assert_eq!((one.network.base_kbps, one.nic_queues), (None, None));

    let one = get("ecs.xn4.small");
    assert_eq!((one.vcpus, one.memory_mib, one.level), (1, 1024, Level::EntryLevel));
    assert_eq!((one.network.base_kbps, one.network.pps), (Some(500_000), Some(50_000)));
}

#[test]
fn credits_are_the_published_ones() {
    for (id, percent, per_hour, max) in [
        ("ecs.t6-c4m1.large", 5, 6, 144),
        ("ecs.t6-c2m1.large", 10, 12, 288),
        ("ecs.t6-c1m1.large", 20, 24, 576),
        ("ecs.t6-c1m2.large", 20, 24, 576),
        ("ecs.t6-c1m4.large", 30, 36, 864),
        ("ecs.t6-c1m4.xlarge", 40, 96, 2_304),
        ("ecs.t6-c1m4.2xlarge", 40, 192, 4_608),
        ("ecs.t5-lc2m1.nano", 20, 12, 288),
        ("ecs.t5-c1m1.large", 25, 30, 720),
        ("ecs.t5-c1m2.4xlarge", 25, 240, 5_760),
    ] {
        let one = get(id);
        let credits = one.credits.expect("burstable");
        assert_eq!(
            (credits.baseline_percent, credits.per_hour, credits.max),
            (percent, per_hour, max)
        );
        assert_eq!(credits.initial, 30 * one.vcpus);
        assert_eq!(one.level, Level::CreditEntryLevel);
    }
    let burstable = instance_types().iter().filter(|one| one.credits.is_some());
    assert!(burstable.clone().all(|one| one.level == Level::CreditEntryLevel));
    assert_eq!(burstable.count(), 24);
}

#[test]
fn what_cannot_run_here_says_why() {
    assert_eq!(family("ecs.c7").map(|one| one.requires), Some(Requirement::KvmX86));
    assert_eq!(Requirement::KvmX86.missing_on_kvm_x86(), None);
    for (id, requires) in [
        ("ecs.g8y", Requirement::Arm),
        ("ecs.gn7i", Requirement::Gpu),
        ("ecs.ebmg7", Requirement::BareMetal),
    ] {
        let one = family(id).expect("in the list");
        assert_eq!(one.requires, requires);
        assert!(one.requires.missing_on_kvm_x86().is_some_and(|why| why.contains("choose")));
    }
    let arm = instance_types().iter().filter(|one| one.architecture == Architecture::Arm);
    assert!(arm.clone().count() > 0);
    assert!(arm.clone().all(|one| one.family().requires == Requirement::Arm));
}

#[test]
fn larger_types_of_a_family_are_never_slower() {
    for family in families() {
        let types: Vec<_> = instance_types()
            .iter()
            .filter(|one| one.family == family.id && one.gpu.is_none())
            .collect();
        for pair in types.windows(2) {
            assert!(pair[0].vcpus <= pair[1].vcpus, "{} is out of order", pair[1].id);
            if let (Some(small), Some(large)) =
                (pair[0].network.base_kbps, pair[1].network.base_kbps)
            {
                assert!(
                    small <= large || pair[0].vcpus == pair[1].vcpus,
                    "{} {}",
                    pair[0].id,
                    pair[1].id
                );
            }
        }
    }
}
