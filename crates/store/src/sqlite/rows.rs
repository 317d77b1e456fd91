//! Records from and to rows.

use crate::{disk_records::*, eni_records::*, records::*};
use rusqlite::{Result, Row, types::Type};
use std::{net::Ipv4Addr, str::FromStr};

/// A record that a row holds whole. Parts that other tables hold are filled in afterwards.
pub(super) trait FromRow: Sized {
    fn from_row(row: &Row<'_>) -> Result<Self>;
}

pub(super) fn num(row: &Row<'_>, column: &str) -> Result<u64> {
    row.get::<_, i64>(column).map(|value| value as u64)
}

pub(super) fn ip(row: &Row<'_>, column: &str) -> Result<Ipv4Addr> {
    row.get::<_, u32>(column).map(Ipv4Addr::from)
}

pub(super) fn parsed<T: FromStr>(text: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

/// Values with commas.
pub(super) fn list<T: FromStr>(text: &str) -> Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.split(',').filter(|part| !part.is_empty()).map(parsed).collect()
}

/// Values with commas.
pub(super) fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A value, or none if the text is empty.
fn optional<T: FromStr>(text: &str) -> Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    if text.is_empty() { Ok(None) } else { parsed(text).map(Some) }
}

impl FromRow for VpcRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            vpc_id: row.get("vpc_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            cidr: parsed(&row.get::<_, String>("cidr")?)?,
            vni: row.get("vni")?,
            secondary_cidrs: list(&row.get::<_, String>("secondary_cidrs")?)?,
            ipv6_cidr: optional(&row.get::<_, String>("ipv6_cidr")?)?,
            system_route_table_id: row.get("system_route_table_id")?,
            created_ms: row.get("created_ms")?,
        })
    }
}

impl FromRow for VSwitchRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            vswitch_id: row.get("vswitch_id")?,
            vpc_id: row.get("vpc_id")?,
            zone_id: row.get("zone_id")?,
            cidr: parsed(&row.get::<_, String>("cidr")?)?,
            name: row.get("name")?,
            description: row.get("description")?,
            first_ip: ip(row, "first_ip")?,
            last_ip: ip(row, "last_ip")?,
            gateway_ip: ip(row, "gateway_ip")?,
            route_table_id: row.get("route_table_id")?,
            ipv6_cidr: optional(&row.get::<_, String>("ipv6_cidr")?)?,
            created_ms: row.get("created_ms")?,
        })
    }
}

impl FromRow for SecurityGroupRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            group_id: row.get("group_id")?,
            vpc_id: row.get("vpc_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            enterprise: row.get("enterprise")?,
            inner_accept: row.get("inner_accept")?,
            tags: Vec::new(),
            created_ms: row.get("created_ms")?,
        })
    }
}

impl FromRow for RuleRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        let cidr: Option<String> = row.get("cidr")?;
        let own_cidr: Option<String> = row.get("own_cidr")?;
        Ok(Self {
            rule_id: row.get("rule_id")?,
            group_id: row.get("group_id")?,
            egress: row.get("egress")?,
            protocol: row.get("protocol")?,
            port_from: row.get("port_from")?,
            port_to: row.get("port_to")?,
            source_ports: row.get("source_ports")?,
            cidr: cidr.as_deref().map(parsed).transpose()?,
            peer_group_id: row.get("peer_group_id")?,
            prefix_list_id: row.get("prefix_list_id")?,
            own_cidr: own_cidr.as_deref().map(parsed).transpose()?,
            priority: row.get("priority")?,
            drop: row.get("drops")?,
            description: row.get("description")?,
            created_ms: row.get("created_ms")?,
        })
    }
}

impl FromRow for KeyPairRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            key_pair_id: row.get("key_pair_id")?,
            name: row.get("name")?,
            fingerprint: row.get("fingerprint")?,
            public_key: row.get("public_key")?,
            created_ms: row.get("created_ms")?,
        })
    }
}

/// The columns of a data key.
pub(super) fn data_key(row: &Row<'_>) -> Result<Option<DataKeyRecord>> {
    let kms_key_id: String = row.get("kms_key_id")?;
    let wrapped = row.get("data_key")?;
    Ok((!kms_key_id.is_empty()).then_some(DataKeyRecord { kms_key_id, wrapped }))
}

/// The values of those columns.
pub(super) fn key_columns(key: Option<&DataKeyRecord>) -> (&str, &[u8]) {
    key.map_or(("", &[]), |key| (&key.kms_key_id, &key.wrapped))
}

impl FromRow for ImageRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            image_id: row.get("image_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            status: row.get("status")?,
            status_reason: row.get("status_reason")?,
            architecture: row.get("architecture")?,
            os_type: row.get("os_type")?,
            platform: row.get("platform")?,
            family: row.get("family")?,
            format: row.get("format")?,
            file_bytes: num(row, "file_bytes")?,
            virtual_bytes: num(row, "virtual_bytes")?,
            sha256: row.get("sha256")?,
            created_ms: row.get("created_ms")?,
            version: row.get("version")?,
            source_snapshot_id: row.get("source_snapshot_id")?,
            source_image_id: row.get("source_image_id")?,
            data_key: data_key(row)?,
            disks: Vec::new(),
            tags: Vec::new(),
        })
    }
}

impl FromRow for ImageDisk {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self { snapshot_id: row.get("snapshot_id")?, size_gib: num(row, "size_gib")? })
    }
}

/// Numbers of `GuestState` in the database.
pub(super) fn state_number(state: GuestState) -> i64 {
    match state {
        GuestState::Starting => 1,
        GuestState::Running => 2,
        GuestState::Stopping => 3,
        GuestState::Stopped => 4,
        GuestState::Failed => 5,
    }
}

fn state_of(number: i64) -> Result<GuestState> {
    Ok(match number {
        1 => GuestState::Starting,
        2 => GuestState::Running,
        3 => GuestState::Stopping,
        4 => GuestState::Stopped,
        5 => GuestState::Failed,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
    })
}

impl FromRow for InstanceRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        let reported = match row.get::<_, Option<i64>>("reported_state")? {
            None => None,
            Some(number) => Some(ReportedState {
                generation: num(row, "reported_generation")?,
                boot_epoch: num(row, "reported_epoch")?,
                state: state_of(number)?,
                code: row.get("reported_code")?,
                message: row.get("reported_message")?,
                started_ms: row.get("started_ms")?,
            }),
        };
        Ok(Self {
            instance_id: row.get("instance_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            host_name: row.get("host_name")?,
            image_id: row.get("image_id")?,
            instance_type: row.get("instance_type")?,
            vcpus: row.get("vcpus")?,
            memory_mib: num(row, "memory_mib")?,
            nic_queues: row.get("nic_queues")?,
            zone_id: row.get("zone_id")?,
            vpc_id: row.get("vpc_id")?,
            vswitch_id: row.get("vswitch_id")?,
            key_pair_name: row.get("key_pair_name")?,
            public_key: row.get("public_key")?,
            user_data: row.get("user_data")?,
            metadata_enabled: row.get("metadata_enabled")?,
            metadata_token_required: row.get("metadata_token_required")?,
            deletion_protection: row.get("deletion_protection")?,
            uuid: row.get("uuid")?,
            internet_max_bandwidth_out: row.get("internet_max_bandwidth_out")?,
            internet_charge_type: row.get("internet_charge_type")?,
            tags: Vec::new(),
            created_ms: row.get("created_ms")?,
            host_id: row.get("host_id")?,
            claimed: row.get("claimed")?,
            power_on: row.get("power_on")?,
            generation: num(row, "generation")?,
            power_generation: num(row, "power_generation")?,
            boot_epoch: num(row, "boot_epoch")?,
            force: row.get("force")?,
            start_when_ready: row.get("start_when_ready")?,
            stop_charging: row.get("stop_charging")?,
            releasing: row.get("releasing")?,
            released_revision: num(row, "released_revision")?,
            reported,
            status: row.get("status")?,
            status_reason: row.get("status_reason")?,
        })
    }
}

impl FromRow for DiskRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            disk_id: row.get("disk_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            category: row.get("category")?,
            performance_level: row.get("performance_level")?,
            size_gib: num(row, "size_gib")?,
            iops: num(row, "iops")?,
            bytes_per_second: num(row, "bytes_per_second")?,
            provisioned_iops: num(row, "provisioned_iops")?,
            bursting_enabled: row.get("bursting_enabled")?,
            zone_id: row.get("zone_id")?,
            image_id: row.get("image_id")?,
            source_snapshot_id: row.get("source_snapshot_id")?,
            data_key: data_key(row)?,
            system: row.get("system")?,
            delete_with_instance: row.get("delete_with_instance")?,
            delete_auto_snapshot: row.get("delete_auto_snapshot")?,
            policy_id: row.get("policy_id")?,
            policy_point_ms: row.get("policy_point_ms")?,
            tags: Vec::new(),
            created_ms: row.get("created_ms")?,
            host_id: row.get("host_id")?,
            pool_id: row.get("pool_id")?,
            tree_id: row.get("tree_id")?,
            home_epoch: num(row, "home_epoch")?,
            instance_id: row.get("instance_id")?,
            position: row.get("position")?,
            attached_ms: row.get("attached_ms")?,
            detached_ms: row.get("detached_ms")?,
            attachment_revision: num(row, "attachment_revision")?,
            generation: num(row, "generation")?,
            content_epoch: num(row, "content_epoch")?,
            content_snapshot_id: row.get("content_snapshot_id")?,
            releasing: row.get("releasing")?,
            released_revision: num(row, "released_revision")?,
            reported: ReportedDisk {
                state: row.get("reported_state")?,
                code: row.get("reported_code")?,
                message: row.get("reported_message")?,
                generation: num(row, "reported_generation")?,
                instance_id: row.get("reported_instance_id")?,
                size_bytes: num(row, "reported_size_bytes")?,
                content_epoch: num(row, "reported_epoch")?,
            },
            status: row.get("status")?,
        })
    }
}

impl FromRow for EniRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            eni_id: row.get("eni_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            vpc_id: row.get("vpc_id")?,
            vswitch_id: row.get("vswitch_id")?,
            zone_id: row.get("zone_id")?,
            mac: row.get("mac")?,
            private_ip: ip(row, "private_ip")?,
            secondary_private_ips: Vec::new(),
            ipv6_addresses: Vec::new(),
            primary: row.get("is_primary")?,
            security_group_ids: Vec::new(),
            delete_on_release: row.get("delete_on_release")?,
            source_dest_check: row.get("source_dest_check")?,
            queues: row.get("queues")?,
            tags: Vec::new(),
            created_ms: row.get("created_ms")?,
            instance_id: row.get("instance_id")?,
            host_id: row.get("host_id")?,
            position: row.get("position")?,
            attached_ms: row.get("attached_ms")?,
            attachment_revision: num(row, "attachment_revision")?,
            generation: num(row, "generation")?,
            reported: ReportedEni {
                instance_id: row.get("reported_instance_id")?,
                generation: num(row, "reported_generation")?,
                code: row.get("reported_code")?,
                message: row.get("reported_message")?,
            },
            status: row.get("status")?,
        })
    }
}

impl FromRow for HostRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            host_id: row.get("host_id")?,
            hostname: row.get("hostname")?,
            zone_id: row.get("zone_id")?,
            access_endpoint: row.get("access_endpoint")?,
            underlay_ip: row.get("underlay_ip")?,
            vcpus: row.get("vcpus")?,
            vcpu_limit: row.get("vcpu_limit")?,
            memory_mib: num(row, "memory_mib")?,
            vcpus_used: row.get("vcpus_used")?,
            memory_mib_used: num(row, "memory_mib_used")?,
            kvm: row.get("kvm")?,
            version: row.get("version")?,
            session: num(row, "session")?,
            lease_until_ms: row.get("lease_until_ms")?,
            lost: row.get("lost")?,
            last_seen_ms: row.get("last_seen_ms")?,
            observed_revision: num(row, "observed_revision")?,
            pools: Vec::new(),
        })
    }
}

impl FromRow for EventRecord {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            event_id: row.get("event_id")?,
            host_id: row.get("host_id")?,
            sequence: num(row, "sequence")?,
            resource_id: row.get("resource_id")?,
            event_type: row.get("event_type")?,
            message: row.get("message")?,
            occurred_ms: row.get("occurred_ms")?,
        })
    }
}
