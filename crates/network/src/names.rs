//! Names and addresses that are the same on every host.

use sha2::{Digest as _, Sha256};
use std::{net::Ipv4Addr, path::Path};

/// Where instances reach the metadata service.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
/// TCP port of the metadata service.
pub const METADATA_PORT: u16 = 80;
/// Where the host's own connections into a VPC come from.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 104, 0, 1);
/// The MAC address that answers for everything a guest asks for; ECS shows the same one.
pub const GATEWAY_MAC: [u8; 6] = [0xee, 0xff, 0xff, 0xff, 0xff, 0xff];
/// Name of the nftables tables (families `inet` and `arp`) in each namespace.
pub const TABLE_NAME: &str = "ecs";

/// Name of a VPC's VXLAN interface, in its namespace.
pub(crate) const VXLAN_LINK: &str = "vxlan0";

pub(crate) const NAMESPACE_PREFIX: &str = "ecs-";
pub(crate) const TAP_PREFIX: &str = "tap";

/// The name of an ENI's tap: `tap` and 48 bits of a hash, since interface names have at most 15
/// bytes. The tap's alias holds the ENI's id.
#[must_use]
pub fn tap_name(eni_id: &str) -> String {
    hashed(TAP_PREFIX, eni_id)
}

/// A prefix and 48 bits of an id's hash.
pub(crate) fn hashed(prefix: &str, id: &str) -> String {
    let digest = Sha256::digest(id.as_bytes());
    let mut name = String::from(prefix);
    for byte in &digest[..6] {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

/// The name of the namespace of the VPC with this VXLAN network identifier.
#[must_use]
pub fn namespace_name(vni: u32) -> String {
    format!("{NAMESPACE_PREFIX}{vni}")
}

/// The name of our table in the host's own namespace: agents that share it, each with namespaces of
/// its own, have one each.
pub(crate) fn host_table(namespace_dir: &Path) -> String {
    if namespace_dir == Path::new("/run/netns") {
        return TABLE_NAME.to_owned();
    }
    let digest = Sha256::digest(namespace_dir.as_os_str().as_encoded_bytes());
    let suffix: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{TABLE_NAME}_{suffix}")
}

/// What the names of the host's ends of edges begin with.
pub(crate) fn edge_prefix(namespace_dir: &Path) -> String {
    match host_table(namespace_dir).split_once('_') {
        None => "ecse".to_owned(),
        Some((_, suffix)) => format!("ec{}", &suffix[..4]),
    }
}

/// The name of the host's end of a VPC's edge.
pub(crate) fn edge_link(namespace_dir: &Path, vni: u32) -> String {
    format!("{}{vni}", edge_prefix(namespace_dir))
}

pub(crate) fn is_edge_link(namespace_dir: &Path, name: &str) -> bool {
    name.strip_prefix(&edge_prefix(namespace_dir))
        .is_some_and(|vni| !vni.is_empty() && vni.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The "protocol" our entries bear among the host's, of the range that is free for use.
pub(crate) fn edge_mark(namespace_dir: &Path) -> u8 {
    match host_table(namespace_dir).as_str() {
        TABLE_NAME => 200,
        other => 201 + Sha256::digest(other.as_bytes())[0] % 50,
    }
}

/// The MAC address of a host's VXLAN interfaces, known to others by its underlay address.
#[must_use]
pub fn vxlan_mac(underlay: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = underlay.octets();
    [0x02, 0xec, a, b, c, d]
}

/// The VNI in a namespace name of ours.
pub(crate) fn vni_of_namespace(name: &str) -> Option<u32> {
    let vni = name.strip_prefix(NAMESPACE_PREFIX)?.parse().ok()?;
    (namespace_name(vni) == name).then_some(vni)
}

/// Whether an interface name has the form [`tap_name`] makes.
pub(crate) fn is_tap_name(name: &str) -> bool {
    name.strip_prefix(TAP_PREFIX)
        .is_some_and(|hex| hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_stable() {
        let name = tap_name("eni-bp1b2c0jvnj0g17b0001");
        assert_eq!(name.len(), 15);
        assert_eq!(name, tap_name("eni-bp1b2c0jvnj0g17b0001"));
        assert_ne!(name, tap_name("eni-bp1b2c0jvnj0g17b0002"));
        assert!(is_tap_name(&name));
        assert!(!is_tap_name("tap0"));
    }

    #[test]
    fn only_our_namespaces_are_recognised() {
        assert_eq!(vni_of_namespace(&namespace_name(7)), Some(7));
        for other in ["ecs-", "ecs-07", "ecs-x", "ecs-99999999999", "other-7"] {
            assert_eq!(vni_of_namespace(other), None, "{other}");
        }
    }
}
