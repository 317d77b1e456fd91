//! Internet NAT gateways. Their entries are in `nat_entries`.

use super::{Api, paging, request, route_entries, service};
use crate::{
    ecs_error::{
        from_store, invalid, missing, nat_gateway_not_found, refuse, vpc_not_found,
        vswitch_not_found,
    },
    ids, nat_placement, timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::{nat_gateway_service_server::NatGatewayService, *};
use ipnet::Ipv4Net;
use prost::Message as _;
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, EipRecord, NatGatewayFilter, NatGatewayRecord, NextHopKind,
    Refusal, RouteEntryRecord, VpcNetwork,
};

const MOST_IN_VPC: usize = 5;

service!(NatGatewayService => Api {
    create_nat_gateway: CreateNatGatewayRequest => CreateNatGatewayResponse;
    delete_nat_gateway: DeleteNatGatewayRequest => DeleteNatGatewayResponse;
    modify_nat_gateway_attribute:
        ModifyNatGatewayAttributeRequest => ModifyNatGatewayAttributeResponse;
    describe_nat_gateways: DescribeNatGatewaysRequest => DescribeNatGatewaysResponse;
    create_snat_entry: CreateSnatEntryRequest => CreateSnatEntryResponse;
    modify_snat_entry: ModifySnatEntryRequest => ModifySnatEntryResponse;
    delete_snat_entry: DeleteSnatEntryRequest => DeleteSnatEntryResponse;
    describe_snat_table_entries:
        DescribeSnatTableEntriesRequest => DescribeSnatTableEntriesResponse;
    create_forward_entry: CreateForwardEntryRequest => CreateForwardEntryResponse;
    modify_forward_entry: ModifyForwardEntryRequest => ModifyForwardEntryResponse;
    delete_forward_entry: DeleteForwardEntryRequest => DeleteForwardEntryResponse;
    describe_forward_table_entries:
        DescribeForwardTableEntriesRequest => DescribeForwardTableEntriesResponse;
});

/// The entry that ECS adds with a gateway: everything out of the VPC goes to it, if nothing else was
/// said.
fn default_route(network: &VpcNetwork, nat_gateway_id: &str, now: i64) -> Option<RouteEntryRecord> {
    let table_id = &network.vpc.system_route_table_id;
    let taken = network.route_entries.iter().any(|entry| {
        entry.route_table_id == *table_id && route_entries::is_default(&entry.destination)
    });
    (!taken).then(|| RouteEntryRecord {
        route_entry_id: ids::route_entry(),
        route_table_id: table_id.clone(),
        vpc_id: network.vpc.vpc_id.clone(),
        destination: Ipv4Net::default(),
        next_hop_kind: NextHopKind::NatGateway,
        next_hop_id: nat_gateway_id.to_owned(),
        automatic: true,
        created_ms: now,
        ..RouteEntryRecord::default()
    })
}

fn check_names(name: &str, description: &str) -> Result<(), Refusal> {
    validation::display_name("InvalidName.Malformed", "NAT gateway name", name)?;
    validation::description("InvalidDescription.Malformed", description)
}

impl Api {
    async fn create_nat_gateway(
        &self,
        request: CreateNatGatewayRequest,
    ) -> Result<CreateNatGatewayResponse, Refusal> {
        let token = request::token("CreateNatGateway", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        for (name, value) in [("vpc_id", &request.vpc_id), ("v_switch_id", &request.v_switch_id)] {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        if !["", "Enhanced"].contains(&request.nat_type.as_str()) {
            return Err(invalid(format!(
                "nat_type is {:?}; it must be Enhanced",
                request.nat_type
            )));
        }
        if !["", "internet"].contains(&request.network_type.as_str()) {
            return Err(crate::ecs_error::unsupported(format!(
                "network_type is {:?}; only internet NAT gateways are built",
                request.network_type
            )));
        }
        check_names(&request.name, &request.description)?;
        let lookup =
            EdgeLookup { hosts: true, ..EdgeLookup::of([&request.vpc_id, &request.v_switch_id]) };
        self.change_edge(token, lookup, move |view| {
            let network =
                view.vpc(&request.vpc_id).ok_or_else(|| vpc_not_found(&request.vpc_id))?;
            let vswitch = network
                .vswitches
                .iter()
                .find(|vswitch| vswitch.vswitch_id == request.v_switch_id)
                .ok_or_else(|| match view.vswitch(&request.v_switch_id) {
                    None => vswitch_not_found(&request.v_switch_id),
                    Some((other, _)) => refuse(
                        400,
                        "OperationDenied.VpcMismatch",
                        format!(
                            "VSwitch {} is in VPC {}, not in {}",
                            request.v_switch_id, other.vpc.vpc_id, request.vpc_id
                        ),
                    ),
                })?;
            if network.nat_gateways.len() >= MOST_IN_VPC {
                return Err(refuse(
                    400,
                    "QuotaExceeded.NatGateway",
                    format!("VPC {} has {MOST_IN_VPC} NAT gateways, the most", request.vpc_id),
                ));
            }
            let now = now_ms();
            let mut gateway = NatGatewayRecord {
                nat_gateway_id: ids::nat_gateway(),
                vpc_id: request.vpc_id.clone(),
                vswitch_id: request.v_switch_id.clone(),
                zone_id: vswitch.zone_id.clone(),
                name: request.name.clone(),
                description: request.description.clone(),
                snat_table_id: ids::snat_table(),
                forward_table_id: ids::forward_table(),
                created_ms: now,
                ..NatGatewayRecord::default()
            };
            // Without a host it waits for one.
            gateway.host_id = nat_placement::choose(&view.hosts, &gateway, now).unwrap_or_default();
            let answer = CreateNatGatewayResponse {
                request_id: String::new(),
                nat_gateway_id: gateway.nat_gateway_id.clone(),
                snat_table_ids: vec![gateway.snat_table_id.clone()],
                forward_table_ids: vec![gateway.forward_table_id.clone()],
            };
            let route = default_route(network, &gateway.nat_gateway_id, now);
            let mut put = vec![EdgeRecord::NatGateway(gateway)];
            put.extend(route.map(EdgeRecord::RouteEntry));
            Ok(EdgePlan { put, answer: answer.encode_to_vec(), ..EdgePlan::default() })
        })
        .await
    }

    async fn delete_nat_gateway(
        &self,
        request: DeleteNatGatewayRequest,
    ) -> Result<DeleteNatGatewayResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.nat_gateway_id.is_empty() {
            return Err(missing("nat_gateway_id"));
        }
        let lookup = EdgeLookup::of([&request.nat_gateway_id]);
        self.change_edge(None, lookup, move |view| {
            let id = &request.nat_gateway_id;
            let (network, gateway) =
                view.nat_gateway(id).ok_or_else(|| nat_gateway_not_found(id))?;
            let snat = network.snat_entries.iter().filter(|e| e.nat_gateway_id == *id).count();
            let forward =
                network.forward_entries.iter().filter(|e| e.nat_gateway_id == *id).count();
            let eips = network.eips_of(id).count();
            for (count, code, what) in [
                (snat, "DependencyViolation.SnatEntry", "SNAT entries"),
                (forward, "DependencyViolation.ForwardEntry", "DNAT entries"),
                (eips, "DependencyViolation.EIPS", "EIPs"),
            ] {
                if count > 0 && !request.force {
                    return Err(refuse(
                        400,
                        code,
                        format!("NAT gateway {id} has {count} {what}; remove them, or set force"),
                    ));
                }
            }
            let put = network
                .eips_of(id)
                .map(|eip| EipRecord { target: None, vpc_id: String::new(), ..eip.clone() })
                .map(EdgeRecord::Eip)
                .collect();
            // Routes that people made stay, and lead nowhere.
            let mut delete: Vec<EdgeRecord> = network
                .route_entries
                .iter()
                .filter(|entry| entry.automatic && entry.next_hop_id == *id)
                .cloned()
                .map(EdgeRecord::RouteEntry)
                .collect();
            delete.push(EdgeRecord::NatGateway(gateway.clone()));
            Ok(EdgePlan { delete, put, ..EdgePlan::default() })
        })
        .await
    }

    async fn modify_nat_gateway_attribute(
        &self,
        request: ModifyNatGatewayAttributeRequest,
    ) -> Result<ModifyNatGatewayAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.nat_gateway_id.is_empty() {
            return Err(missing("nat_gateway_id"));
        }
        check_names(
            request.name.as_deref().unwrap_or_default(),
            request.description.as_deref().unwrap_or_default(),
        )?;
        let lookup = EdgeLookup::of([&request.nat_gateway_id]);
        self.change_edge(None, lookup, move |view| {
            let id = &request.nat_gateway_id;
            let (_, gateway) = view.nat_gateway(id).ok_or_else(|| nat_gateway_not_found(id))?;
            let mut gateway = gateway.clone();
            if let Some(name) = &request.name {
                gateway.name.clone_from(name);
            }
            if let Some(description) = &request.description {
                gateway.description.clone_from(description);
            }
            Ok(EdgePlan { put: vec![EdgeRecord::NatGateway(gateway)], ..EdgePlan::default() })
        })
        .await
    }

    async fn describe_nat_gateways(
        &self,
        request: DescribeNatGatewaysRequest,
    ) -> Result<DescribeNatGatewaysResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let filter = NatGatewayFilter {
            nat_gateway_ids: Some(request.nat_gateway_id)
                .filter(|id| !id.is_empty())
                .into_iter()
                .collect(),
            vpc_id: request.vpc_id,
            zone_id: request.zone_id,
            name: request.name,
            misplaced: false,
        };
        let listed = self.cloud.store.nat_gateways(filter, page).await.map_err(from_store)?;
        let lookup = EdgeLookup::of(listed.items.iter().map(|gateway| &gateway.nat_gateway_id));
        let view = self.edge(lookup).await?;
        Ok(DescribeNatGatewaysResponse {
            request_id: String::new(),
            nat_gateways: listed
                .items
                .iter()
                .filter_map(|gateway| view.nat_gateway(&gateway.nat_gateway_id))
                .map(|(network, gateway)| self.describe_gateway(network, gateway))
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    fn describe_gateway(&self, network: &VpcNetwork, gateway: &NatGatewayRecord) -> NatGateway {
        let id = &gateway.nat_gateway_id;
        let (status, status_reason) = nat_placement::status(gateway);
        NatGateway {
            nat_gateway_id: id.clone(),
            name: gateway.name.clone(),
            description: gateway.description.clone(),
            region_id: self.cloud.options.region_id.clone(),
            zone_id: gateway.zone_id.clone(),
            vpc_id: gateway.vpc_id.clone(),
            v_switch_id: gateway.vswitch_id.clone(),
            status: status.to_owned(),
            status_reason,
            nat_type: "Enhanced".to_owned(),
            network_type: "internet".to_owned(),
            ip_lists: network
                .eips_of(id)
                .map(|eip| NatGatewayIp {
                    allocation_id: eip.allocation_id.clone(),
                    ip_address: eip.address.to_string(),
                    snat_entry_ids: network
                        .snat_entries
                        .iter()
                        .filter(|e| e.nat_gateway_id == *id && e.snat_ips.contains(&eip.address))
                        .map(|entry| entry.snat_entry_id.clone())
                        .collect(),
                    forward_entry_ids: network
                        .forward_entries
                        .iter()
                        .filter(|e| e.external_ip == eip.address)
                        .map(|entry| entry.forward_entry_id.clone())
                        .collect(),
                })
                .collect(),
            snat_table_ids: vec![gateway.snat_table_id.clone()],
            forward_table_ids: vec![gateway.forward_table_id.clone()],
            host_id: gateway.host_id.clone(),
            creation_time: timestamp::second(gateway.created_ms),
        }
    }
}
