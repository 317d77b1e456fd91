//! Which instance of a VPC has which address, for the metadata service.

use api::host::{HostSpec, InstanceSpec};
use metadata::{Bandwidth, Directory, InstanceView};
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, PoisonError, RwLock},
};

/// The instances of one VPC on this host. Replaced as a whole with each spec.
#[derive(Debug, Default)]
pub struct VpcDirectory {
    by_address: RwLock<HashMap<Ipv4Addr, Arc<InstanceView>>>,
}

impl VpcDirectory {
    /// Takes over what the spec says of this VPC.
    pub fn update(&self, spec: &HostSpec, vpc_id: &str) {
        let mut by_address = HashMap::new();
        for instance in &spec.instances {
            let mut view = None;
            for eni in instance.enis.iter().filter(|e| e.vpc_id == vpc_id) {
                let addresses = [&eni.private_ip].into_iter().chain(&eni.secondary_private_ips);
                for address in addresses.filter_map(|text| text.parse().ok()) {
                    let view = view.get_or_insert_with(|| Arc::new(self::view(instance)));
                    by_address.insert(address, Arc::clone(view));
                }
            }
        }
        *self.by_address.write().unwrap_or_else(PoisonError::into_inner) = by_address;
    }
}

fn view(instance: &InstanceSpec) -> InstanceView {
    let view = InstanceView::new(instance);
    match bandwidth(&instance.instance_type) {
        Some(bandwidth) => view.with_bandwidth(bandwidth),
        None => view,
    }
}

/// What the catalog says of a type: one figure for both ways, and none for some types.
fn bandwidth(instance_type: &str) -> Option<Bandwidth> {
    let kbps = catalog::instance_type(instance_type)?.network.base_kbps?;
    Some(Bandwidth { ingress_kbps: kbps, egress_kbps: kbps })
}

impl Directory for VpcDirectory {
    fn instance_by_ip(&self, address: Ipv4Addr) -> Option<Arc<InstanceView>> {
        self.by_address.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::host::EniSpec;

    fn instance(id: &str, vpc: &str, ip: &str) -> InstanceSpec {
        let eni = EniSpec { vpc_id: vpc.into(), private_ip: ip.into(), ..EniSpec::default() };
        InstanceSpec { instance_id: id.into(), enis: vec![eni], ..InstanceSpec::default() }
    }

    #[test]
    fn a_type_of_the_catalog_brings_its_bandwidth() {
        let known = catalog::instance_types().iter().find(|t| t.network.base_kbps.is_some());
        let known = known.unwrap();
        assert_eq!(bandwidth(&known.id).map(|b| b.egress_kbps), known.network.base_kbps);
        assert_eq!(bandwidth("ecs.none"), None);
    }

    #[test]
    fn the_same_address_in_two_vpcs_is_two_instances() {
        let spec = HostSpec {
            instances: vec![
                instance("i-1", "vpc-1", "10.0.0.2"),
                instance("i-2", "vpc-2", "10.0.0.2"),
            ],
            ..HostSpec::default()
        };
        let directory = VpcDirectory::default();
        let id = |d: &VpcDirectory| {
            d.instance_by_ip([10, 0, 0, 2].into()).map(|v| v.instance_id().to_owned())
        };
        directory.update(&spec, "vpc-2");
        assert_eq!(id(&directory).as_deref(), Some("i-2"));
        directory.update(&spec, "vpc-1");
        assert_eq!(id(&directory).as_deref(), Some("i-1"));
        directory.update(&HostSpec::default(), "vpc-1");
        assert_eq!(id(&directory), None);
    }
}
