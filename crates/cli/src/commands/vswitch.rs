//! `ecsctl vswitch`.

use super::{Context, catalog, pages};
use crate::{
    client::client_token,
    error::Result,
    output::table::{self, Row},
};
use api::v1::{
    CreateVSwitchRequest, DeleteVSwitchRequest, DescribeVSwitchesRequest,
    ModifyVSwitchAttributeRequest, VSwitch,
};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum VswitchCommand {
    /// Creates a VSwitch in a VPC
    #[command(after_help = "Example:\n  ecsctl vswitch create --vpc VPC --cidr 172.16.1.0/24")]
    Create {
        #[arg(long)]
        vpc: String,
        /// Its addresses, inside the VPC's: a /16 to a /29
        #[arg(long)]
        cidr: String,
        /// Zone; default: the first
        #[arg(long)]
        zone: Option<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
        /// With IPv6: the last byte of its /64 in the VPC's /56, 0 to 255
        #[arg(long, value_name = "BYTE")]
        ipv6: Option<u32>,
    },
    /// Lists VSwitches
    #[command(after_help = "Example:\n  ecsctl vswitch list --vpc vpc-1")]
    List {
        /// Id; left out: all
        #[arg(default_value = "", hide_default_value = true)]
        id: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        vpc: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        zone: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        route_table: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Changes a VSwitch's name, description or IPv6
    #[command(after_help = "Example:\n  ecsctl vswitch modify vsw-1 --name front --ipv6 7")]
    Modify {
        id: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// The last byte of its /64 in the VPC's /56, 0 to 255
        #[arg(long, value_name = "BYTE", conflicts_with = "no_ipv6")]
        ipv6: Option<u32>,
        #[arg(long)]
        no_ipv6: bool,
    },
    /// Deletes an empty VSwitch
    #[command(after_help = "Example:\n  ecsctl vswitch delete vsw-1")]
    Delete { id: String },
}

impl Row for VSwitch {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "VPC",
        "ZONE",
        "CIDR",
        "FREE",
        "STATUS",
        "ROUTE TABLE",
        "IPV6",
        "CREATED",
        "DESCRIPTION",
    ];
    const WIDE: usize = 4;
    fn id(&self) -> String {
        self.v_switch_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.v_switch_id.clone(),
            self.v_switch_name.clone(),
            self.vpc_id.clone(),
            self.zone_id.clone(),
            self.cidr_block.clone(),
            self.available_ip_address_count.to_string(),
            self.status.clone(),
            self.route_table.clone().unwrap_or_default().route_table_id,
            self.ipv6_cidr_block.clone(),
            self.creation_time.clone(),
            self.description.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: VswitchCommand) -> Result<()> {
    let mut service = context.cloud.vpcs();
    let region_id = context.region.clone();
    match command {
        VswitchCommand::Create {
            vpc,
            cidr,
            zone,
            name,
            description,
            client_token: token,
            ipv6,
        } => {
            let zone_id = match zone {
                Some(zone) => zone,
                None => catalog::first_zone(context).await?,
            };
            let request = CreateVSwitchRequest {
                region_id,
                zone_id,
                vpc_id: vpc,
                cidr_block: cidr,
                v_switch_name: name,
                description,
                client_token: client_token(token),
                ipv6_cidr_block: ipv6,
            };
            let answer = service.create_v_switch(request).await?.into_inner();
            let id = answer.v_switch_id.clone();
            context.done(&answer, std::slice::from_ref(&id), &format!("VSwitch {id} created"));
        }
        VswitchCommand::List { id, vpc, zone, route_table, name } => {
            let vswitches = pages::all(async |page_number| {
                let request = DescribeVSwitchesRequest {
                    region_id: region_id.clone(),
                    vpc_id: vpc.clone(),
                    v_switch_id: id.clone(),
                    zone_id: zone.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    route_table_id: route_table.clone(),
                    v_switch_name: name.clone(),
                };
                let answer = service.describe_v_switches(request).await?.into_inner();
                Ok((answer.v_switches, answer.total_count))
            })
            .await?;
            table::print(context.format, &vswitches);
        }
        VswitchCommand::Modify { id, name, description, ipv6, no_ipv6 } => {
            let request = ModifyVSwitchAttributeRequest {
                region_id,
                v_switch_id: id.clone(),
                v_switch_name: name,
                description,
                enable_ipv6: match (ipv6, no_ipv6) {
                    (_, true) => Some(false),
                    (Some(_), _) => Some(true),
                    _ => None,
                },
                ipv6_cidr_block: ipv6,
            };
            let answer = service.modify_v_switch_attribute(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("VSwitch {id} changed"));
        }
        VswitchCommand::Delete { id } => {
            let request = DeleteVSwitchRequest { region_id, v_switch_id: id.clone() };
            let answer = service.delete_v_switch(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("VSwitch {id} deleted"));
        }
    }
    Ok(())
}
