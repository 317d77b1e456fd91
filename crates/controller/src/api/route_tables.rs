//! Route tables.

use super::{Api, paging, request, route_entries, service, vpc_attributes::router_id};
use crate::{
    ecs_error::{
        from_store, missing, refuse, route_table_not_found, vpc_not_found, vswitch_not_found,
    },
    ids, timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::{route_table_service_server::RouteTableService, *};
use prost::Message as _;
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, Refusal, RouteTableFilter, RouteTableRecord, VSwitchRecord,
};

const MOST_CUSTOM_TABLES: usize = 9;

service!(RouteTableService => Api {
    create_route_table: CreateRouteTableRequest => CreateRouteTableResponse;
    delete_route_table: DeleteRouteTableRequest => DeleteRouteTableResponse;
    modify_route_table_attributes:
        ModifyRouteTableAttributesRequest => ModifyRouteTableAttributesResponse;
    associate_route_table: AssociateRouteTableRequest => AssociateRouteTableResponse;
    unassociate_route_table: UnassociateRouteTableRequest => UnassociateRouteTableResponse;
    describe_route_table_list: DescribeRouteTableListRequest => DescribeRouteTableListResponse;
    describe_route_tables: DescribeRouteTablesRequest => DescribeRouteTablesResponse;
    create_route_entry: CreateRouteEntryRequest => CreateRouteEntryResponse;
    modify_route_entry: ModifyRouteEntryRequest => ModifyRouteEntryResponse;
    delete_route_entry: DeleteRouteEntryRequest => DeleteRouteEntryResponse;
    describe_route_entry_list: DescribeRouteEntryListRequest => DescribeRouteEntryListResponse;
});

/// The VPC of a router.
fn vpc_of_router(router_id: &str) -> String {
    router_id.strip_prefix("vrt-").map(|rest| format!("vpc-{rest}")).unwrap_or_default()
}

fn describe(table: RouteTableRecord, v_switch_ids: Vec<String>) -> RouteTable {
    RouteTable {
        route_table_type: if table.system { "System" } else { "Custom" }.to_owned(),
        associate_type: "VSwitch".to_owned(),
        router_id: router_id(&table.vpc_id),
        router_type: "VRouter".to_owned(),
        route_table_id: table.route_table_id,
        route_table_name: table.name,
        description: table.description,
        vpc_id: table.vpc_id,
        v_switch_ids,
        status: "Available".to_owned(),
        creation_time: timestamp::second(table.created_ms),
        route_entrys: Vec::new(),
    }
}

fn check_names(name: Option<&String>, description: Option<&String>) -> Result<(), Refusal> {
    if let Some(name) = name {
        validation::display_name("InvalidRouteTableName.Malformed", "route table name", name)?;
    }
    if let Some(description) = description {
        validation::description("InvalidDescription.Malformed", description)?;
    }
    Ok(())
}

impl Api {
    async fn create_route_table(
        &self,
        request: CreateRouteTableRequest,
    ) -> Result<CreateRouteTableResponse, Refusal> {
        let token = request::token("CreateRouteTable", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        if request.vpc_id.is_empty() {
            return Err(missing("vpc_id"));
        }
        check_names(Some(&request.route_table_name), Some(&request.description))?;
        let lookup = EdgeLookup::of([&request.vpc_id]);
        self.change_edge(token, lookup, move |view| {
            let network =
                view.vpc(&request.vpc_id).ok_or_else(|| vpc_not_found(&request.vpc_id))?;
            let custom = network.route_tables.iter().filter(|table| !table.system).count();
            if custom >= MOST_CUSTOM_TABLES {
                return Err(refuse(
                    400,
                    "QuotaExceeded.RouteTable",
                    format!(
                        "VPC {} has {MOST_CUSTOM_TABLES} custom route tables, the most",
                        request.vpc_id
                    ),
                ));
            }
            let table = RouteTableRecord {
                route_table_id: ids::route_table(),
                vpc_id: request.vpc_id.clone(),
                system: false,
                name: request.route_table_name.clone(),
                description: request.description.clone(),
                created_ms: now_ms(),
            };
            let answer = CreateRouteTableResponse {
                request_id: String::new(),
                route_table_id: table.route_table_id.clone(),
            };
            Ok(EdgePlan {
                put: vec![EdgeRecord::RouteTable(table)],
                answer: answer.encode_to_vec(),
                ..EdgePlan::default()
            })
        })
        .await
    }

    async fn delete_route_table(
        &self,
        request: DeleteRouteTableRequest,
    ) -> Result<DeleteRouteTableResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.route_table_id.is_empty() {
            return Err(missing("route_table_id"));
        }
        let id = request.route_table_id;
        self.change_edge(None, EdgeLookup::of([&id]), move |view| {
            let (network, table) =
                view.route_table(&id).ok_or_else(|| route_table_not_found(&id))?;
            if table.system {
                return Err(refuse(
                    400,
                    "OperationDenied.SystemRouteTable",
                    format!("route table {id} is the system one of its VPC and goes with it"),
                ));
            }
            let users: Vec<&str> = network
                .vswitches
                .iter()
                .filter(|vswitch| vswitch.route_table_id == id)
                .map(|vswitch| vswitch.vswitch_id.as_str())
                .collect();
            if !users.is_empty() {
                return Err(refuse(
                    400,
                    "DependencyViolation.VSwitch",
                    format!(
                        "route table {id} is associated with VSwitches {}; unassociate them first",
                        users.join(", ")
                    ),
                ));
            }
            let delete = vec![EdgeRecord::RouteTable(table.clone())];
            Ok(EdgePlan { delete, ..EdgePlan::default() })
        })
        .await
    }

    async fn modify_route_table_attributes(
        &self,
        request: ModifyRouteTableAttributesRequest,
    ) -> Result<ModifyRouteTableAttributesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.route_table_id.is_empty() {
            return Err(missing("route_table_id"));
        }
        check_names(request.route_table_name.as_ref(), request.description.as_ref())?;
        let lookup = EdgeLookup::of([&request.route_table_id]);
        self.change_edge(None, lookup, move |view| {
            let id = &request.route_table_id;
            let (_, table) = view.route_table(id).ok_or_else(|| route_table_not_found(id))?;
            let mut table = table.clone();
            if let Some(name) = &request.route_table_name {
                table.name.clone_from(name);
            }
            if let Some(description) = &request.description {
                table.description.clone_from(description);
            }
            Ok(EdgePlan { put: vec![EdgeRecord::RouteTable(table)], ..EdgePlan::default() })
        })
        .await
    }

    async fn associate_route_table(
        &self,
        request: AssociateRouteTableRequest,
    ) -> Result<AssociateRouteTableResponse, Refusal> {
        let token = request::token("AssociateRouteTable", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let (table_id, vswitch_id) = both(request.route_table_id, request.v_switch_id)?;
        self.change_edge(token, EdgeLookup::of([&table_id, &vswitch_id]), move |view| {
            let (network, table) =
                view.route_table(&table_id).ok_or_else(|| route_table_not_found(&table_id))?;
            let (own, vswitch) =
                view.vswitch(&vswitch_id).ok_or_else(|| vswitch_not_found(&vswitch_id))?;
            if own.vpc.vpc_id != network.vpc.vpc_id {
                return Err(refuse(
                    400,
                    "OperationDenied.VpcMismatch",
                    format!(
                        "route table {table_id} is in VPC {}, VSwitch {vswitch_id} in {}; a VSwitch \
                         uses tables of its VPC",
                        network.vpc.vpc_id, own.vpc.vpc_id
                    ),
                ));
            }
            if table.system {
                return Err(refuse(
                    400,
                    "OperationDenied.SystemRouteTable",
                    format!(
                        "route table {table_id} is the system one; UnassociateRouteTable gives it \
                         back to a VSwitch"
                    ),
                ));
            }
            Ok(moved(vswitch, &table_id))
        })
        .await
    }

    async fn unassociate_route_table(
        &self,
        request: UnassociateRouteTableRequest,
    ) -> Result<UnassociateRouteTableResponse, Refusal> {
        let token = request::token("UnassociateRouteTable", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let (table_id, vswitch_id) = both(request.route_table_id, request.v_switch_id)?;
        self.change_edge(token, EdgeLookup::of([&table_id, &vswitch_id]), move |view| {
            let (_, table) =
                view.route_table(&table_id).ok_or_else(|| route_table_not_found(&table_id))?;
            let (network, vswitch) =
                view.vswitch(&vswitch_id).ok_or_else(|| vswitch_not_found(&vswitch_id))?;
            if table.system || vswitch.route_table_id != table_id {
                return Err(refuse(
                    400,
                    "InvalidAssociation.NotFound",
                    format!(
                        "VSwitch {vswitch_id} has route table {}; only a custom one is unassociated",
                        vswitch.route_table_id
                    ),
                ));
            }
            Ok(moved(vswitch, &network.vpc.system_route_table_id))
        })
        .await
    }

    async fn describe_route_table_list(
        &self,
        request: DescribeRouteTableListRequest,
    ) -> Result<DescribeRouteTableListResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let system = match request.route_table_type.as_str() {
            "" => None,
            "System" => Some(true),
            "Custom" => Some(false),
            other => {
                return Err(refuse(
                    400,
                    "InvalidParameter",
                    format!("route_table_type is {other:?}; it must be System or Custom"),
                ));
            }
        };
        let of_router = vpc_of_router(&request.router_id);
        let vpc_id = if request.vpc_id.is_empty() { of_router } else { request.vpc_id };
        let filter = RouteTableFilter {
            vpc_id,
            route_table_id: request.route_table_id,
            name: request.route_table_name,
            system,
        };
        let listed = self.cloud.store.route_tables(filter, page).await.map_err(from_store)?;
        Ok(DescribeRouteTableListResponse {
            request_id: String::new(),
            router_table_list: listed
                .items
                .into_iter()
                .map(|(table, vswitches)| describe(table, vswitches))
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    async fn describe_route_tables(
        &self,
        request: DescribeRouteTablesRequest,
    ) -> Result<DescribeRouteTablesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let filter = RouteTableFilter {
            vpc_id: vpc_of_router(&request.v_router_id),
            route_table_id: request.route_table_id,
            ..RouteTableFilter::default()
        };
        let listed = self.cloud.store.route_tables(filter, page).await.map_err(from_store)?;
        let lookup = EdgeLookup::of(listed.items.iter().map(|(table, _)| &table.vpc_id));
        let view = self.edge(lookup).await?;
        let route_tables = listed
            .items
            .into_iter()
            .map(|(table, vswitches)| {
                let route_entrys = view
                    .vpc(&table.vpc_id)
                    .map(|network| route_entries::of_table(network, &table.route_table_id))
                    .unwrap_or_default();
                RouteTable { route_entrys, ..describe(table, vswitches) }
            })
            .collect();
        Ok(DescribeRouteTablesResponse {
            request_id: String::new(),
            route_tables,
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }
}

fn both(table_id: String, vswitch_id: String) -> Result<(String, String), Refusal> {
    if table_id.is_empty() {
        return Err(missing("route_table_id"));
    }
    if vswitch_id.is_empty() {
        return Err(missing("v_switch_id"));
    }
    Ok((table_id, vswitch_id))
}

fn moved(vswitch: &VSwitchRecord, table_id: &str) -> EdgePlan {
    let vswitch = VSwitchRecord { route_table_id: table_id.to_owned(), ..vswitch.clone() };
    EdgePlan { put: vec![EdgeRecord::VSwitch(vswitch)], ..EdgePlan::default() }
}
