//! A VPC and its VSwitches.

use super::{VSwitch, Vpc, gateway, invalid, subnet};
use crate::Error;
use api::host::VpcSpec;
use std::collections::HashMap;

/// VXLAN network identifiers have 24 bits.
const VNI_LIMIT: u32 = 1 << 24;

pub(super) fn vpc(spec: &VpcSpec, vnis: &HashMap<u32, &str>) -> Result<Vpc, Error> {
    let id = &spec.vpc_id;
    if id.is_empty() {
        return Err(invalid("VPC", "vpc_id", id, "an id"));
    }
    if spec.vni == 0 || spec.vni >= VNI_LIMIT {
        return Err(invalid(id, "vni", &spec.vni.to_string(), "1 to 16777215"));
    }
    if let Some(other) = vnis.get(&spec.vni) {
        return Err(Error::Conflict {
            resource: id.clone(),
            what: format!("VNI {}", spec.vni),
            other: (*other).to_owned(),
        });
    }
    let mut vpc = Vpc { id: id.clone(), vni: spec.vni, ..Vpc::default() };
    if !spec.cidr.is_empty() {
        vpc.blocks.insert(subnet(id, "cidr", &spec.cidr)?);
    }
    for cidr in &spec.secondary_cidrs {
        vpc.blocks.insert(subnet(id, "secondary_cidrs", cidr)?);
    }
    for vswitch in &spec.vswitches {
        let subnet = subnet(&vswitch.vswitch_id, "cidr", &vswitch.cidr)?;
        vpc.gateways.insert(gateway(&vswitch.vswitch_id, &vswitch.gateway_ip, subnet)?);
        vpc.blocks.insert(subnet);
        let tables = &spec.route_tables;
        let route_table = tables.iter().find(|table| {
            table.route_table_id == vswitch.route_table_id && !table.entries.is_empty()
        });
        let route_table = route_table.map(|table| table.route_table_id.clone());
        vpc.vswitches.insert(vswitch.vswitch_id.clone(), VSwitch { subnet, route_table });
    }
    Ok(vpc)
}
