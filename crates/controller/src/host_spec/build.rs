//! From a snapshot to the spec.

use super::edge;
use crate::cloud::CloudOptions;
use api::host::{
    DiskEncryption, DiskSpec, EniSpec, HostSpec, ImageSpec, InstanceMetadata, InstanceSpec,
    NetworkLimit, Power, PrefixListSpec, PublicKey, RemoteHost, Removal, RuleSpec,
    SecurityGroupSpec, SnapshotSpec, VpcSpec,
};
use std::collections::HashMap;
use store::{
    DiskRecord, EniRecord, GroupMembers, HostSnapshot, ImageRecord, InstanceDetails,
    NatGatewayRecord, PrefixListRecord, RemoteEnis, RuleRecord, SnapshotRecord, VSwitchRecord,
    VpcNetwork, VpcRecord,
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
            .map(|details| instance(details, (&vpcs, &vswitches), &snapshot.networks, options))
            .collect(),
        disks: snapshot.disks.iter().map(disk).collect(),
        vpcs: snapshot.networks.iter().map(|network| vpc(network, snapshot)).collect(),
        security_groups: snapshot.groups.iter().map(group).collect(),
        images: snapshot.images.iter().map(image).collect(),
        region_id: options.region_id.clone(),
        zone_id: snapshot.host.zone_id.clone(),
        snapshots: snapshot.snapshots.iter().map(disk_snapshot).collect(),
        removals: snapshot.removals.iter().map(removal).collect(),
        prefix_lists: snapshot.prefix_lists.iter().map(prefix_list).collect(),
        protected_cidrs: options.protected_cidrs.iter().map(ToString::to_string).collect(),
    }
}

/// Where the host of a NAT gateway is; empty: it is on none.
fn underlay_ip(snapshot: &HostSnapshot, gateway: &NatGatewayRecord) -> String {
    let host = snapshot.gateway_hosts.iter().find(|host| host.host_id == gateway.host_id);
    host.map(|host| host.underlay_ip.clone()).unwrap_or_default()
}

fn instance(
    details: &InstanceDetails,
    (vpcs, vswitches): (&HashMap<&str, &VpcRecord>, &HashMap<&str, &VSwitchRecord>),
    networks: &[VpcNetwork],
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
        enis: details
            .enis
            .iter()
            .map(|record| EniSpec {
                eips: edge::eips_of_interface(networks, &record.vpc_id, &record.eni_id),
                ..eni(record, vpcs, vswitches)
            })
            .collect(),
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
        network_limit: network_limit(&record.instance_type),
    }
}

/// What the instance type may send and receive. A figure that nobody publishes limits nothing.
fn network_limit(instance_type: &str) -> Option<NetworkLimit> {
    let network = catalog::instance_type(instance_type)?.network;
    let limited = network.base_kbps.is_some() || network.pps.is_some();
    limited.then(|| NetworkLimit {
        kbits_per_second: network.base_kbps.unwrap_or(0),
        burst_kbits_per_second: network.burst_kbps.unwrap_or(0),
        packets_per_second: network.pps.unwrap_or(0),
    })
}

/// An interface as hosts need it, but for its public addresses.
pub(crate) fn eni(
    record: &EniRecord,
    vpcs: &HashMap<&str, &VpcRecord>,
    vswitches: &HashMap<&str, &VSwitchRecord>,
) -> EniSpec {
    let vpc = vpcs.get(record.vpc_id.as_str());
    let vswitch = vswitches.get(record.vswitch_id.as_str());
    // The blocks change only while no interface has addresses of them, so they need no generation.
    let has_ipv6 = record.ipv6_addresses.first();
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
        generation: record.generation,
        secondary_private_ips: record
            .secondary_private_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        ipv6_addresses: record.ipv6_addresses.iter().map(ToString::to_string).collect(),
        vswitch_ipv6_cidr: has_ipv6
            .and(vswitch)
            .and_then(|vswitch| vswitch.ipv6_cidr)
            .map(|cidr| cidr.to_string())
            .unwrap_or_default(),
        vpc_ipv6_cidr: has_ipv6
            .and(vpc)
            .and_then(|vpc| vpc.ipv6_cidr)
            .map(|cidr| cidr.to_string())
            .unwrap_or_default(),
        no_source_check: !record.source_dest_check,
        queues: record.queues,
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
        encryption: record.data_key.as_ref().map(|key| DiskEncryption {
            kms_key_id: key.kms_key_id.clone(),
            wrapped_key: key.wrapped.clone(),
        }),
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

fn vpc(network: &VpcNetwork, snapshot: &HostSnapshot) -> VpcSpec {
    let remotes = snapshot.remotes.iter().filter(|remote| remote.vpc_id == network.vpc.vpc_id);
    VpcSpec {
        remote_hosts: remotes.map(remote_host).collect(),
        ..edge::vpc(
            network,
            |gateway| gateway.host_id == snapshot.host.host_id,
            |gateway| underlay_ip(snapshot, gateway),
        )
    }
}

fn remote_host(remote: &RemoteEnis) -> RemoteHost {
    RemoteHost {
        underlay_ip: remote.underlay_ip.clone(),
        addresses: remote.addresses.iter().map(ToString::to_string).collect(),
    }
}

/// A prefix list as hosts need it.
pub(crate) fn prefix_list(record: &PrefixListRecord) -> PrefixListSpec {
    PrefixListSpec {
        prefix_list_id: record.prefix_list_id.clone(),
        cidrs: record.entries.iter().map(|(cidr, _)| cidr.to_string()).collect(),
    }
}

/// A group as hosts need it.
pub(crate) fn group(members: &GroupMembers) -> SecurityGroupSpec {
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
        prefix_list_id: record.prefix_list_id.clone(),
        own_cidr: record.own_cidr.map(|cidr| cidr.to_string()).unwrap_or_default(),
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
