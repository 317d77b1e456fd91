//! What one instance may read about itself.

use crate::tree::Node;
use api::host::{EniSpec, InstanceSpec};
use bytes::Bytes;
use ipnet::Ipv4Net;
use serde_json::json;
use std::collections::BTreeSet;

/// Names the network's services have in ECS; images of ECS expect to read them.
const ECS_NAMES: &[(&[&str], &str)] = &[
    (&["source-address"], "http://mirrors.cloud.aliyuncs.com"),
    (&["kms-server"], "kms.cloud.aliyuncs.com"),
    (&["wsus-server", "wu-server"], "http://update.cloud.aliyuncs.com"),
    (&["wsus-server", "wu-status-server"], "http://update.cloud.aliyuncs.com"),
    (&["instance", "virtualization-solution"], "ECS Virt"),
    (&["instance", "virtualization-solution-version"], "2.0"),
    (&["hibernation", "configured"], "false"),
    (&["network-type"], "vpc"),
];

/// The instance type's limits inside the VPC, in Kbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Into the instance.
    pub ingress_kbps: u64,
    /// Out of the instance.
    pub egress_kbps: u64,
}

/// What one instance may read.
#[derive(Debug, Clone)]
pub struct InstanceView {
    instance_id: String,
    http_enabled: bool,
    token_required: bool,
    user_data: Bytes,
    /// `meta-data`.
    metadata: Node,
    /// The other trees, by name.
    others: Node,
}

impl InstanceView {
    /// From the instance's spec.
    #[must_use]
    pub fn new(spec: &InstanceSpec) -> Self {
        let about = spec.metadata.clone().unwrap_or_default();
        let mut metadata = Node::default();
        let mut set = |path: &[&str], text: &str| metadata.set(path, text);
        for (path, text) in ECS_NAMES {
            set(path, text);
        }
        set(&["instance-id"], &spec.instance_id);
        set(&["hostname"], &about.hostname);
        set(&["image-id"], &about.image_id);
        set(&["instance", "instance-name"], &about.instance_name);
        set(&["instance", "instance-type"], &spec.instance_type);
        set(&["region-id"], &about.region_id);
        set(&["zone-id"], &about.zone_id);
        set(&["owner-account-id"], &about.owner_account_id);
        set(&["serial-number"], &about.serial_number);
        // ECS ends these lines like that.
        set(&["dns-conf", "nameservers"], &about.dns_servers.join("\r\n"));
        set(&["ntp-conf", "ntp-servers"], &about.ntp_servers.join("\n"));
        for (name, key) in key_names(spec) {
            set(&["public-keys", &name, "openssh-key"], key.trim());
        }
        for disk in &spec.disk_ids {
            let serial = disk.strip_prefix("d-").unwrap_or(disk);
            set(&["disks", serial, "id"], disk);
            set(&["disks", serial, "name"], about.disk_names.get(disk).map_or("", String::as_str));
        }
        for eni in &spec.enis {
            interface(eni, &mut set);
        }
        if let Some(primary) = spec.enis.iter().find(|eni| eni.primary).or(spec.enis.first()) {
            set(&["mac"], &primary.mac.to_ascii_lowercase());
            set(&["private-ipv4"], &primary.private_ip);
            set(&["vpc-id"], &primary.vpc_id);
            set(&["vpc-cidr-block"], &primary.vpc_cidr);
            set(&["vswitch-id"], &primary.vswitch_id);
            set(&["vswitch-cidr-block"], &primary.vswitch_cidr);
            let public = primary.eips.iter().find(|eip| eip.private_ip == primary.private_ip);
            if let Some(eip) = public {
                set(&["eipv4"], &eip.address);
                set(&["public-ipv4"], &eip.address);
            }
        }
        let mut others = Node::default();
        others.set(&["dynamic", "instance-identity", "document"], identity(&metadata));
        others.set(&["maintenance", "active-system-events"], "[]");
        Self {
            instance_id: spec.instance_id.clone(),
            http_enabled: about.http_enabled,
            token_required: about.token_required,
            user_data: Bytes::from(about.user_data),
            metadata,
            others,
        }
    }

    /// The same with `instance/max-netbw-*`.
    #[must_use]
    pub fn with_bandwidth(mut self, bandwidth: Bandwidth) -> Self {
        let Bandwidth { ingress_kbps, egress_kbps } = bandwidth;
        self.metadata.set(&["instance", "max-netbw-ingress"], ingress_kbps.to_string());
        self.metadata.set(&["instance", "max-netbw-egress"], egress_kbps.to_string());
        self
    }

    /// The instance's id.
    #[must_use]
    pub fn instance_id(&self) -> &str {
        &self.instance_id
    }

    pub(crate) fn http_enabled(&self) -> bool {
        self.http_enabled
    }

    pub(crate) fn token_required(&self) -> bool {
        self.token_required
    }

    /// None if there is none.
    pub(crate) fn user_data(&self) -> Option<Bytes> {
        (!self.user_data.is_empty()).then(|| self.user_data.clone())
    }

    pub(crate) fn metadata(&self) -> &Node {
        &self.metadata
    }

    pub(crate) fn others(&self) -> &Node {
        &self.others
    }
}

fn interface(eni: &EniSpec, set: &mut impl FnMut(&[&str], &str)) {
    // The guest compares with what its kernel shows.
    let mac = eni.mac.to_ascii_lowercase();
    let netmask =
        eni.vswitch_cidr.parse::<Ipv4Net>().map(|n| n.netmask().to_string()).unwrap_or_default();
    let addresses = json!([eni.private_ip]).to_string();
    for (name, text) in [
        ("network-interface-id", &eni.eni_id),
        ("netmask", &netmask),
        ("gateway", &eni.gateway_ip),
        ("primary-ip-address", &eni.private_ip),
        ("private-ipv4s", &addresses),
        ("vpc-id", &eni.vpc_id),
        ("vpc-cidr-block", &eni.vpc_cidr),
        ("vswitch-id", &eni.vswitch_id),
        ("vswitch-cidr-block", &eni.vswitch_cidr),
    ] {
        set(&["network", "interfaces", "macs", &mac, name], text);
    }
    if eni.ipv6_addresses.is_empty() {
        return;
    }
    // ECS writes these lists without quotes.
    let list = |items: &[String]| format!("[{}]", items.join(","));
    let blocks = list(std::slice::from_ref(&eni.vpc_ipv6_cidr));
    for (name, text) in [
        ("ipv6s", &list(&eni.ipv6_addresses)),
        ("vswitch-ipv6-cidr-block", &eni.vswitch_ipv6_cidr),
        ("vpc-ipv6-cidr-blocks", &blocks),
    ] {
        set(&["network", "interfaces", "macs", &mac, name], text);
    }
}

/// Key pairs under names that can be part of a path and that differ.
fn key_names(spec: &InstanceSpec) -> Vec<(String, String)> {
    let keys = spec.metadata.iter().flat_map(|about| &about.public_keys);
    let mut taken = BTreeSet::new();
    keys.enumerate()
        .map(|(index, key)| {
            // A line with a slash at its end would be a directory, one with `=` an EC2 key.
            let fits = !key.name.is_empty()
                && !key.name.contains(|c: char| c == '/' || c == '=' || c.is_control())
                && key.name.trim() == key.name;
            let name = if fits && taken.insert(key.name.clone()) {
                key.name.clone()
            } else {
                index.to_string()
            };
            (name, key.openssh.clone())
        })
        .collect()
}

fn identity(metadata: &Node) -> String {
    let text = |path: &[&str]| metadata.get(path.iter().copied()).map(Node::render);
    json!({
        "instance-id": text(&["instance-id"]),
        "instance-type": text(&["instance", "instance-type"]),
        "image-id": text(&["image-id"]),
        "region-id": text(&["region-id"]),
        "zone-id": text(&["zone-id"]),
        "owner-account-id": text(&["owner-account-id"]),
        "serial-number": text(&["serial-number"]),
        "private-ipv4": text(&["private-ipv4"]),
        "mac": text(&["mac"]),
    })
    .to_string()
}
