//! From a snapshot to the spec.

use crate::cloud::CloudOptions;
use api::host::{
    DiskSpec, EniSpec, HostSpec, ImageSpec, InstanceMetadata, InstanceSpec, Power, PublicKey,
    Removal, RuleSpec, SecurityGroupSpec, SnapshotSpec, VSwitchSpec, VpcSpec,
};
use std::collections::HashMap;
use store::{
    DiskRecord, EniRecord, GroupMembers, HostSnapshot, ImageRecord, InstanceDetails, RuleRecord,
    SnapshotRecord, VSwitchRecord, VpcRecord,
};

/// The spec a snapshot means.
pub fn build(snapshot: &HostSnapshot, options: &CloudOptions) -> HostSpec {
    let vpcs: HashMap<&str, &VpcRecord> =
        snapshot.vpcs.iter().map(|vpc| (vpc.vpc_id.as_str(), vpc)).collect();
    let vswitches: HashMap<&str, &VSwitchRecord> =
        snapshot.vswitches.iter().map(|vswitch| (vswitch.vswitch_id.as_str(), vswitch)).collect();
    HostSpec {
        host_id: snapshot.host.host_id.clone(),
        revision: snapshot.revision,
        instances: snapshot
            .instances
            .iter()
            .map(|details| instance(details, &vpcs, &vswitches, options))
            .collect(),
        disks: snapshot.disks.iter().map(disk).collect(),
        vpcs: snapshot.vpcs.iter().map(|record| vpc(record, &snapshot.vswitches)).collect(),
        security_groups: snapshot.groups.iter().map(group).collect(),
        images: snapshot.images.iter().map(image).collect(),
        region_id: options.region_id.clone(),
        zone_id: snapshot.host.zone_id.clone(),
        snapshots: snapshot.snapshots.iter().map(disk_snapshot).collect(),
        removals: snapshot.removals.iter().map(removal).collect(),
        ..HostSpec::default()
    }
}

fn instance(
    details: &InstanceDetails,
    vpcs: &HashMap<&str, &VpcRecord>,
    vswitches: &HashMap<&str, &VSwitchRecord>,
    options: &CloudOptions,
) -> InstanceSpec {
    let record = &details.instance;
    let stop_timeout = u32::try_from(options.stop_timeout.as_secs()).unwrap_or(u32::MAX);
    let public_keys = if record.public_key.is_empty() {
        Vec::new()
    } else {
        vec![PublicKey { name: record.key_pair_name.clone(), openssh: record.public_key.clone() }]
    };
    InstanceSpec {
        instance_id: record.instance_id.clone(),
        generation: record.generation,
        power: if record.power_on { Power::Running } else { Power::Stopped }.into(),
        boot_epoch: record.boot_epoch,
        force: record.force,
        stop_timeout_seconds: stop_timeout,
        uuid: record.uuid.clone(),
        vcpus: record.vcpus,
        memory_mib: record.memory_mib,
        instance_type: record.instance_type.clone(),
        disk_ids: details.disks.iter().map(|disk| disk.disk_id.clone()).collect(),
        enis: details.enis.iter().map(|record| eni(record, vpcs, vswitches)).collect(),
        metadata: Some(InstanceMetadata {
            hostname: record.host_name.clone(),
            instance_name: record.name.clone(),
            image_id: record.image_id.clone(),
            region_id: options.region_id.clone(),
            zone_id: record.zone_id.clone(),
            owner_account_id: options.owner_account_id.clone(),
            user_data: record.user_data.clone(),
            public_keys,
            http_enabled: record.metadata_enabled,
            token_required: record.metadata_token_required,
            serial_number: record.uuid.clone(),
            dns_servers: options.dns_servers.clone(),
            ntp_servers: options.ntp_servers.clone(),
            disk_names: details
                .disks
                .iter()
                .filter(|disk| !disk.name.is_empty())
                .map(|disk| (disk.disk_id.clone(), disk.name.clone()))
                .collect(),
        }),
        nic_queues: record.nic_queues,
        ..InstanceSpec::default()
    }
}

fn eni(
    record: &EniRecord,
    vpcs: &HashMap<&str, &VpcRecord>,
    vswitches: &HashMap<&str, &VSwitchRecord>,
) -> EniSpec {
    let vpc = vpcs.get(record.vpc_id.as_str());
    let vswitch = vswitches.get(record.vswitch_id.as_str());
    EniSpec {
        eni_id: record.eni_id.clone(),
        mac: record.mac.clone(),
        vpc_id: record.vpc_id.clone(),
        vswitch_id: record.vswitch_id.clone(),
        vswitch_cidr: vswitch.map(|vswitch| vswitch.cidr.to_string()).unwrap_or_default(),
        private_ip: record.private_ip.to_string(),
        gateway_ip: vswitch.map(|vswitch| vswitch.gateway_ip.to_string()).unwrap_or_default(),
        security_group_ids: record.security_group_ids.clone(),
        primary: record.primary,
        vpc_cidr: vpc.map(|vpc| vpc.cidr.to_string()).unwrap_or_default(),
        ..EniSpec::default()
    }
}

fn disk(record: &DiskRecord) -> DiskSpec {
    DiskSpec {
        disk_id: record.disk_id.clone(),
        generation: record.generation,
        size_gib: record.size_gib,
        // A snapshot lies on what its disk lay on, so it is the only source there is.
        image_id: if record.content_snapshot_id.is_empty() {
            record.image_id.clone()
        } else {
            String::new()
        },
        iops: record.iops,
        bytes_per_second: record.bytes_per_second,
        category: record.category.clone(),
        performance_level: record.performance_level.clone(),
        source_snapshot_id: record.content_snapshot_id.clone(),
        content_epoch: record.content_epoch,
        pool_id: record.pool_id.clone(),
        tree_id: record.tree_id.clone(),
        home_epoch: record.home_epoch,
    }
}

fn removal(record: &store::Removal) -> Removal {
    Removal {
        resource_id: record.resource_id.clone(),
        pool_id: record.pool_id.clone(),
        tree_id: record.tree_id.clone(),
        home_epoch: record.home_epoch,
        snapshot: record.snapshot,
    }
}

fn disk_snapshot(record: &SnapshotRecord) -> SnapshotSpec {
    SnapshotSpec {
        snapshot_id: record.snapshot_id.clone(),
        disk_id: record.disk_id.clone(),
        disk_size_gib: record.disk_size_gib,
        pool_id: record.pool_id.clone(),
        tree_id: record.tree_id.clone(),
        home_epoch: record.home_epoch,
    }
}

fn vpc(record: &VpcRecord, vswitches: &[VSwitchRecord]) -> VpcSpec {
    VpcSpec {
        vpc_id: record.vpc_id.clone(),
        cidr: record.cidr.to_string(),
        vni: record.vni,
        vswitches: vswitches
            .iter()
            .filter(|vswitch| vswitch.vpc_id == record.vpc_id)
            .map(|vswitch| VSwitchSpec {
                vswitch_id: vswitch.vswitch_id.clone(),
                cidr: vswitch.cidr.to_string(),
                gateway_ip: vswitch.gateway_ip.to_string(),
                ..VSwitchSpec::default()
            })
            .collect(),
        ..VpcSpec::default()
    }
}

fn group(members: &GroupMembers) -> SecurityGroupSpec {
    SecurityGroupSpec {
        security_group_id: members.group.group_id.clone(),
        vpc_id: members.group.vpc_id.clone(),
        enterprise: members.group.enterprise,
        inner_accept: members.group.inner_accept,
        rules: members.rules.iter().map(rule).collect(),
        member_ips: members.member_ips.iter().map(ToString::to_string).collect(),
    }
}

fn rule(record: &RuleRecord) -> RuleSpec {
    RuleSpec {
        egress: record.egress,
        ip_protocol: record.protocol.clone(),
        port_from: record.port_from.into(),
        port_to: record.port_to.into(),
        cidr: record.cidr.map(|cidr| cidr.to_string()).unwrap_or_default(),
        peer_group_id: record.peer_group_id.clone().unwrap_or_default(),
        priority: record.priority,
        drop: record.drop,
        source_port_range: record.source_ports.clone(),
        ..RuleSpec::default()
    }
}

fn image(record: &ImageRecord) -> ImageSpec {
    ImageSpec {
        image_id: record.image_id.clone(),
        format: record.format.clone(),
        file_bytes: record.file_bytes,
        sha256: record.sha256.clone(),
        virtual_bytes: record.virtual_bytes,
    }
}
