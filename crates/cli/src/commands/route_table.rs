//! `ecsctl route-table`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::Result,
    output::table::{self, Row},
};
use api::v1::{
    AssociateRouteTableRequest, CreateRouteEntryRequest, CreateRouteTableRequest,
    DeleteRouteEntryRequest, DeleteRouteTableRequest, DescribeRouteEntryListRequest,
    DescribeRouteTableListRequest, ModifyRouteEntryRequest, ModifyRouteTableAttributesRequest,
    RouteEntry, RouteTable, UnassociateRouteTableRequest,
};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum RouteTableCommand {
    /// Creates a custom route table in a VPC
    #[command(after_help = "Example:\n  ecsctl route-table create --vpc vpc-1 --name inner")]
    Create {
        #[arg(long)]
        vpc: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Lists route tables
    #[command(after_help = "Example:\n  ecsctl route-table list --vpc vpc-1")]
    List {
        /// Id; left out: all
        #[arg(default_value = "", hide_default_value = true)]
        id: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        vpc: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Shows a route table's entries
    #[command(after_help = "Example:\n  ecsctl route-table show vtb-1")]
    Show { id: String },
    /// Changes a route table's name or description
    #[command(after_help = "Example:\n  ecsctl route-table modify vtb-1 --name inner")]
    Modify {
        id: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
    },
    /// Gives a route table to a VSwitch
    #[command(after_help = "Example:\n  ecsctl route-table associate vtb-1 vsw-1")]
    Associate { id: String, vswitch: String },
    /// Gives a VSwitch the system route table back
    #[command(after_help = "Example:\n  ecsctl route-table unassociate vtb-1 vsw-1")]
    Unassociate { id: String, vswitch: String },
    /// Adds an entry
    #[command(after_help = "Examples:\n  \
        ecsctl route-table add-route vtb-1 --to 192.168.0.0/16 --via i-1\n  \
        ecsctl route-table add-route vtb-1 --to 0.0.0.0/0 --via ngw-1")]
    AddRoute {
        id: String,
        /// Destination: a CIDR block or an address
        #[arg(long)]
        to: String,
        /// Next hop: an instance (i-), a network interface (eni-) or a NAT gateway (ngw-). An
        /// interface takes what is for others only with its source and destination check off
        #[arg(long)]
        via: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
        /// Only check the order
        #[arg(long)]
        dry_run: bool,
    },
    /// Changes an entry's next hop or name
    #[command(after_help = "Example:\n  ecsctl route-table change-route rte-1 --via eni-1")]
    ChangeRoute {
        /// The entry (rte-...)
        entry: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        via: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
    },
    /// Removes an entry: named by its id, or by table and destination
    #[command(after_help = "Examples:\n  ecsctl route-table remove-route rte-1\n  \
        ecsctl route-table remove-route vtb-1 --to 192.168.0.0/16")]
    RemoveRoute {
        /// The entry (rte-...), or with --to its table
        id: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        to: String,
    },
    /// Deletes a custom route table that no VSwitch uses
    #[command(after_help = "Example:\n  ecsctl route-table delete vtb-1")]
    Delete { id: String },
}

impl Row for RouteTable {
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "VPC", "TYPE", "VSWITCHES", "CREATED", "DESCRIPTION"];
    const WIDE: usize = 2;
    fn id(&self) -> String {
        self.route_table_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.route_table_id.clone(),
            self.route_table_name.clone(),
            self.vpc_id.clone(),
            self.route_table_type.clone(),
            self.v_switch_ids.join(" "),
            self.creation_time.clone(),
            self.description.clone(),
        ]
    }
}

impl Row for RouteEntry {
    const COLUMNS: &'static [&'static str] =
        &["ENTRY", "DESTINATION", "NEXT HOP", "HOP TYPE", "TYPE", "STATUS", "NAME", "DESCRIPTION"];
    const WIDE: usize = 2;
    fn id(&self) -> String {
        self.route_entry_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let hop = self.next_hops.first().cloned().unwrap_or_default();
        vec![
            self.route_entry_id.clone(),
            self.destination_cidr_block.clone(),
            hop.next_hop_id,
            hop.next_hop_type,
            self.r#type.clone(),
            self.status.clone(),
            self.route_entry_name.clone(),
            self.description.clone(),
        ]
    }
}

/// What a next hop is, by its id.
fn kind(id: &str) -> String {
    match id.split('-').next() {
        Some("eni") => "NetworkInterface",
        Some("ngw") => "NatGateway",
        _ => "Instance",
    }
    .to_owned()
}

pub(crate) async fn run(context: &Context, command: RouteTableCommand) -> Result<()> {
    let mut service = context.cloud.route_tables();
    let region_id = context.region.clone();
    match command {
        RouteTableCommand::Create { vpc, name, description, client_token: token } => {
            let request = CreateRouteTableRequest {
                region_id,
                vpc_id: vpc,
                route_table_name: name,
                description,
                client_token: client_token(token),
            };
            let answer = service.create_route_table(request).await?.into_inner();
            let id = answer.route_table_id.clone();
            context.done(&answer, std::slice::from_ref(&id), &format!("Route table {id} created"));
        }
        RouteTableCommand::List { id, vpc, name } => {
            let tables = pages::all(async |page_number| {
                let request = DescribeRouteTableListRequest {
                    region_id: region_id.clone(),
                    vpc_id: vpc.clone(),
                    route_table_id: id.clone(),
                    route_table_name: name.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    ..Default::default()
                };
                let answer = service.describe_route_table_list(request).await?.into_inner();
                Ok((answer.router_table_list, answer.total_count))
            })
            .await?;
            table::print(context.format, &tables);
        }
        RouteTableCommand::Show { id } => {
            let mut entries = Vec::new();
            let mut next_token = String::new();
            loop {
                let request = DescribeRouteEntryListRequest {
                    region_id: region_id.clone(),
                    route_table_id: id.clone(),
                    next_token,
                    max_result: 100,
                    ..Default::default()
                };
                let answer = service.describe_route_entry_list(request).await?.into_inner();
                entries.extend(answer.route_entrys);
                next_token = answer.next_token;
                if next_token.is_empty() {
                    break;
                }
            }
            table::print(context.format, &entries);
        }
        RouteTableCommand::Modify { id, name, description } => {
            let request = ModifyRouteTableAttributesRequest {
                region_id,
                route_table_id: id.clone(),
                route_table_name: name,
                description,
            };
            let answer = service.modify_route_table_attributes(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("Route table {id} changed"));
        }
        RouteTableCommand::Associate { id, vswitch } => {
            let request = AssociateRouteTableRequest {
                region_id,
                route_table_id: id.clone(),
                v_switch_id: vswitch.clone(),
                client_token: client_token(None),
            };
            let answer = service.associate_route_table(request).await?.into_inner();
            let sentence = format!("VSwitch {vswitch} uses route table {id}");
            context.done(&answer, &[id], &sentence);
        }
        RouteTableCommand::Unassociate { id, vswitch } => {
            let request = UnassociateRouteTableRequest {
                region_id,
                route_table_id: id.clone(),
                v_switch_id: vswitch.clone(),
                client_token: client_token(None),
            };
            let answer = service.unassociate_route_table(request).await?.into_inner();
            let sentence = format!("VSwitch {vswitch} uses the system route table");
            context.done(&answer, &[id], &sentence);
        }
        RouteTableCommand::AddRoute {
            id,
            to,
            via,
            name,
            description,
            client_token: token,
            dry_run,
        } => {
            let request = CreateRouteEntryRequest {
                region_id,
                route_table_id: id.clone(),
                destination_cidr_block: to.clone(),
                next_hop_type: kind(&via),
                next_hop_id: via.clone(),
                route_entry_name: name,
                description,
                client_token: client_token(token),
                dry_run,
            };
            let answer = service.create_route_entry(request).await?.into_inner();
            let entry = answer.route_entry_id.clone();
            let sentence = format!("Route entry {entry} created: {to} by {via}");
            context.done(&answer, &[entry], &sentence);
        }
        RouteTableCommand::ChangeRoute { entry, via, name, description } => {
            let request = ModifyRouteEntryRequest {
                region_id,
                route_entry_id: entry.clone(),
                route_entry_name: name,
                description,
                new_next_hop_type: if via.is_empty() { String::new() } else { kind(&via) },
                new_next_hop_id: via,
                ..Default::default()
            };
            let answer = service.modify_route_entry(request).await?.into_inner();
            let sentence = format!("Route entry {entry} changed");
            context.done(&answer, &[entry], &sentence);
        }
        RouteTableCommand::RemoveRoute { id, to } => {
            let (route_entry_id, route_table_id) = if to.is_empty() {
                (id.clone(), String::new())
            } else {
                (String::new(), id.clone())
            };
            let request = DeleteRouteEntryRequest {
                region_id,
                route_entry_id,
                route_table_id,
                destination_cidr_block: to.clone(),
                next_hop_id: String::new(),
            };
            let answer = service.delete_route_entry(request).await?.into_inner();
            context.done(&answer, &[id.clone()], &format!("Route entry {id} {to} removed"));
        }
        RouteTableCommand::Delete { id } => {
            let request = DeleteRouteTableRequest { region_id, route_table_id: id.clone() };
            let answer = service.delete_route_table(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("Route table {id} deleted"));
        }
    }
    Ok(())
}
