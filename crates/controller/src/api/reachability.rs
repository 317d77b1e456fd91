//! What becomes of a packet, and what a VPC is made of.

use super::{Api, service};
use crate::{
    ecs_error::{
        eni_not_found, from_store, instance_not_found, invalid, missing, refuse, vpc_not_found,
    },
    host_spec::{self, edge, group},
    instance_state,
};
use api::{
    host::{EniSpec, PrefixListSpec},
    v1::{reachability_service_server::ReachabilityService, *},
};
use reachability::{Interface, Network, Origin, Outcome, Packet, Protocol, Reason, Step, Trace};
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};
use store::{EdgeLookup, EdgeView, EipFilter, EniRecord, Page, PrefixListFilter, Refusal};

const SOURCE_PORT: u16 = 49152;

service!(ReachabilityService => Api {
    trace_path: TracePathRequest => TracePathResponse;
    describe_vpc_topology: DescribeVpcTopologyRequest => DescribeVpcTopologyResponse;
});

/// One end of a path.
enum End {
    /// An interface, by one of its addresses.
    Interface(Box<EniRecord>, IpAddr),
    Address(IpAddr),
}

impl End {
    /// From what a request names: an instance, an interface, or an address, which is a private one if
    /// an interface of the VPC has it.
    fn find(view: &EdgeView, text: &str, vpc_id: &str) -> Result<Self, Refusal> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let own = view
                .enis
                .iter()
                .find(|eni| eni.vpc_id == vpc_id && eni.all_addresses().any(|own| own == address));
            return Ok(own.map_or(Self::Address(address), |eni| {
                Self::Interface(Box::new(eni.clone()), address)
            }));
        }
        let primary =
            |eni: &EniRecord| Self::Interface(Box::new(eni.clone()), eni.private_ip.into());
        if text.starts_with("eni-") {
            let eni = view.enis.iter().find(|eni| eni.eni_id == text);
            return eni.map(primary).ok_or_else(|| eni_not_found(text));
        }
        if text.starts_with("i-") {
            let eni = view.enis.iter().find(|eni| eni.instance_id == text && eni.primary);
            return eni.map(primary).ok_or_else(|| instance_not_found(text));
        }
        Err(invalid(format!(
            "{text:?} is no end of a path; give an instance (i-...), a network interface (eni-...) \
             or an address"
        )))
    }

    fn address(&self) -> IpAddr {
        match self {
            Self::Interface(_, address) | Self::Address(address) => *address,
        }
    }
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Guest => "Guest",
        Step::SourceCheck => "SourceCheck",
        Step::EgressGroups => "EgressGroups",
        Step::Route => "Route",
        Step::HostToHost => "HostToHost",
        Step::Eip => "Eip",
        Step::NatGateway => "NatGateway",
        Step::IngressGroups => "IngressGroups",
        Step::Service => "Service",
        Step::Internet => "Internet",
    }
}

fn port(name: &str, port: u32, default: u16) -> Result<u16, Refusal> {
    match port {
        0 => Ok(default),
        port => u16::try_from(port)
            .map_err(|_| invalid(format!("{name} is {port}; it must be 1 to 65535"))),
    }
}

/// What the evaluator works on.
fn network(view: &EdgeView, prefix_lists: Vec<PrefixListSpec>) -> Network {
    let networks = &view.vpcs;
    let gateways = networks.iter().flat_map(|network| &network.nat_gateways);
    Network {
        vpcs: networks.iter().map(|n| edge::vpc(n, |_| true, |_| String::new())).collect(),
        interfaces: view
            .enis
            .iter()
            .map(|eni| {
                let instance = view.instances.iter().find(|i| i.instance_id == eni.instance_id);
                Interface {
                    spec: EniSpec {
                        eips: edge::eips_of_interface(networks, &eni.vpc_id, &eni.eni_id),
                        ..host_spec::eni(eni, &HashMap::new(), &HashMap::new())
                    },
                    instance_id: eni.instance_id.clone(),
                    running: instance.is_some_and(|i| i.status == instance_state::RUNNING),
                    host_id: instance.map(|i| i.host_id.clone()).unwrap_or_default(),
                }
            })
            .collect(),
        groups: view.groups.iter().map(group).collect(),
        prefix_lists,
        gateway_hosts: gateways
            .map(|gateway| (gateway.nat_gateway_id.clone(), gateway.host_id.clone()))
            .collect(),
    }
}

/// How it ends, in a sentence.
fn reason(trace: &Trace) -> String {
    let last = trace.hops.last();
    let message = last.map(|hop| hop.message.as_str()).unwrap_or_default();
    match &trace.outcome {
        Outcome::Delivered(eni_id) => format!("it reaches {eni_id}"),
        Outcome::HandedOver(eni_id) => {
            format!("it reaches {eni_id}, a next hop, whose guest decides what comes then")
        }
        Outcome::Service => "it reaches the cloud's services".to_owned(),
        Outcome::Internet => "it leaves for the internet".to_owned(),
        Outcome::Dropped => {
            let step = last.map_or("", |hop| step_name(hop.step));
            format!("dropped at {step}: {message}")
        }
    }
}

impl Api {
    /// Every prefix list, as rules may name any.
    async fn all_prefix_lists(&self) -> Result<Vec<PrefixListSpec>, Refusal> {
        let mut lists = Vec::new();
        let mut position = None;
        loop {
            let page = Page::After { position, limit: 100 };
            let listed = self.cloud.store.prefix_lists(PrefixListFilter::default(), page).await;
            let listed = listed.map_err(from_store)?;
            lists.extend(listed.items.iter().map(|(list, _)| host_spec::prefix_list(list)));
            if listed.next.is_none() {
                return Ok(lists);
            }
            position = listed.next;
        }
    }

    /// Ids of VPCs that have one of these addresses as public ones.
    async fn vpcs_of_public(&self, texts: [&str; 2]) -> Result<Vec<String>, Refusal> {
        let addresses: Vec<_> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let filter = EipFilter { addresses, fixed_too: true, ..EipFilter::default() };
        let page = Page::Offset { offset: 0, limit: 2 };
        let listed = self.cloud.store.eips(filter, page).await.map_err(from_store)?;
        Ok(listed.items.into_iter().map(|eip| eip.vpc_id).collect())
    }

    async fn trace_path(&self, request: TracePathRequest) -> Result<TracePathResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        for (name, value) in [("source", &request.source), ("destination", &request.destination)] {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        let protocol: Protocol = match request.ip_protocol.as_str() {
            "" => return Err(missing("ip_protocol")),
            text => text.parse().map_err(|()| {
                let hint = "it must be tcp, udp, icmp or gre";
                refuse(
                    400,
                    "InvalidIpProtocol.ValueNotSupported",
                    format!("ip_protocol is {text:?}; {hint}"),
                )
            })?,
        };
        let mut destination_port = port("destination_port", request.destination_port, 0)?;
        let mut source_port = port("source_port", request.source_port, SOURCE_PORT)?;
        if protocol.has_ports() && destination_port == 0 {
            return Err(missing("destination_port"));
        }
        if !protocol.has_ports() {
            (source_port, destination_port) = (0, 0);
        }
        let mut ids = self.vpcs_of_public([&request.source, &request.destination]).await?;
        ids.extend([&request.source, &request.destination, &request.vpc_id].map(Clone::clone));
        let lookup = EdgeLookup { interfaces: true, ..EdgeLookup::of(ids) };
        let view = self.edge(lookup).await?;
        if !request.vpc_id.is_empty() && view.vpc(&request.vpc_id).is_none() {
            return Err(vpc_not_found(&request.vpc_id));
        }
        // An address is one of the VPC that is named, or that the other end is in.
        let vpc_of = |text: &str| match End::find(&view, text, &request.vpc_id) {
            Ok(End::Interface(eni, _)) => eni.vpc_id,
            _ => String::new(),
        };
        let source_vpc = vpc_of(&request.source);
        let destination_vpc = vpc_of(&request.destination);
        let vpc_id = [&request.vpc_id, &source_vpc, &destination_vpc]
            .into_iter()
            .find(|vpc_id| !vpc_id.is_empty())
            .cloned()
            .unwrap_or_default();
        let source = End::find(&view, &request.source, &vpc_id)?;
        let destination = End::find(&view, &request.destination, &vpc_id)?;
        if let (End::Interface(from, _), End::Interface(to, _)) = (&source, &destination)
            && from.vpc_id != to.vpc_id
        {
            return Err(refuse(
                400,
                "InvalidOperation.VpcMismatch",
                format!(
                    "{} is in VPC {}, {} in {}; VPCs reach each other by public addresses only: give \
                     one as destination",
                    from.eni_id, from.vpc_id, to.eni_id, to.vpc_id
                ),
            ));
        }
        let packet = Packet {
            protocol,
            source: source.address(),
            source_port,
            destination: destination.address(),
            destination_port,
        };
        let origin = match &source {
            End::Interface(eni, _) => Origin::Interface(eni.eni_id.clone()),
            End::Address(_) => Origin::Internet,
        };
        let network = network(&view, self.all_prefix_lists().await?);
        let trace = reachability::trace(&network, &origin, packet);
        let rule_id = |reason: &Option<Reason>| match reason {
            Some(Reason::Rule { group_id, index }) => view
                .groups
                .iter()
                .find(|members| members.group.group_id == *group_id)
                .and_then(|members| members.rules.get(*index))
                .map(|rule| rule.rule_id.clone()),
            _ => None,
        };
        Ok(TracePathResponse {
            request_id: String::new(),
            reachable: trace.outcome != Outcome::Dropped,
            reason: reason(&trace),
            hops: trace
                .hops
                .iter()
                .map(|hop| PathHop {
                    step: step_name(hop.step).to_owned(),
                    passed: hop.passed,
                    resource_id: rule_id(&hop.reason).unwrap_or_else(|| hop.resource_id.clone()),
                    rule: hop.rule.clone(),
                    message: hop.message.clone(),
                    packet: hop.packet.to_string(),
                })
                .collect(),
        })
    }

    async fn describe_vpc_topology(
        &self,
        request: DescribeVpcTopologyRequest,
    ) -> Result<DescribeVpcTopologyResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        let lookup = EdgeLookup { interfaces: true, ..EdgeLookup::of([&request.vpc_id]) };
        let view = self.edge(lookup).await?;
        let network = view.vpc(&request.vpc_id).ok_or_else(|| vpc_not_found(&request.vpc_id))?;
        let interface = |eni: &EniRecord| {
            let instance = view.instances.iter().find(|i| i.instance_id == eni.instance_id);
            let eips = edge::eips_of_interface(&view.vpcs, &eni.vpc_id, &eni.eni_id);
            TopologyInterface {
                network_interface_id: eni.eni_id.clone(),
                private_ip_address: eni.private_ip.to_string(),
                instance_id: eni.instance_id.clone(),
                instance_name: instance.map(|i| i.name.clone()).unwrap_or_default(),
                instance_status: instance.map(|i| i.status.clone()).unwrap_or_default(),
                host_id: instance.map(|i| i.host_id.clone()).unwrap_or_default(),
                security_group_ids: eni.security_group_ids.clone(),
                public_ip_addresses: eips.into_iter().map(|eip| eip.address).collect(),
            }
        };
        let used: BTreeSet<&str> =
            network.vswitches.iter().map(|v| v.route_table_id.as_str()).collect();
        Ok(DescribeVpcTopologyResponse {
            request_id: String::new(),
            vpc_id: network.vpc.vpc_id.clone(),
            vpc_name: network.vpc.name.clone(),
            cidr_blocks: network.cidrs().map(|cidr| cidr.to_string()).collect(),
            v_switches: network
                .vswitches
                .iter()
                .map(|vswitch| TopologyVSwitch {
                    v_switch_id: vswitch.vswitch_id.clone(),
                    v_switch_name: vswitch.name.clone(),
                    cidr_block: vswitch.cidr.to_string(),
                    zone_id: vswitch.zone_id.clone(),
                    route_table_id: vswitch.route_table_id.clone(),
                    interfaces: view
                        .enis
                        .iter()
                        .filter(|eni| eni.vswitch_id == vswitch.vswitch_id)
                        .map(interface)
                        .collect(),
                })
                .collect(),
            nat_gateways: network
                .nat_gateways
                .iter()
                .map(|gateway| TopologyNatGateway {
                    nat_gateway_id: gateway.nat_gateway_id.clone(),
                    name: gateway.name.clone(),
                    v_switch_id: gateway.vswitch_id.clone(),
                    host_id: gateway.host_id.clone(),
                    public_ip_addresses: network
                        .eips_of(&gateway.nat_gateway_id)
                        .map(|eip| eip.address.to_string())
                        .collect(),
                })
                .collect(),
            route_tables: network
                .route_tables
                .iter()
                .filter(|table| table.system || used.contains(table.route_table_id.as_str()))
                .map(|table| TopologyRouteTable {
                    route_table_id: table.route_table_id.clone(),
                    route_table_type: if table.system { "System" } else { "Custom" }.to_owned(),
                    routes: network
                        .route_entries
                        .iter()
                        .filter(|entry| entry.route_table_id == table.route_table_id)
                        .map(|entry| TopologyRoute {
                            destination_cidr_block: entry.destination.to_string(),
                            next_hop_id: entry.next_hop_id.clone(),
                            status: super::route_entries::status(entry).to_owned(),
                        })
                        .collect(),
                })
                .collect(),
            security_groups: view
                .groups
                .iter()
                .map(|members| TopologySecurityGroup {
                    security_group_id: members.group.group_id.clone(),
                    security_group_name: members.group.name.clone(),
                    security_group_type: if members.group.enterprise {
                        "enterprise"
                    } else {
                        "normal"
                    }
                    .to_owned(),
                    rules: u32::try_from(members.rules.len()).unwrap_or(u32::MAX),
                })
                .collect(),
        })
    }
}
