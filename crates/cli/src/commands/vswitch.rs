//! `ecsctl vswitch`.

use super::{Context, catalog, pages};
use crate::{
    client::client_token,
    error::Result,
    output::table::{self, Row},
};
use api::v1::{CreateVSwitchRequest, DeleteVSwitchRequest, DescribeVSwitchesRequest, VSwitch};
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
    },
    /// Deletes an empty VSwitch
    #[command(after_help = "Example:\n  ecsctl vswitch delete vsw-1")]
    Delete { id: String },
}

impl Row for VSwitch {
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "VPC", "ZONE", "CIDR", "FREE", "STATUS", "CREATED", "DESCRIPTION"];
    const WIDE: usize = 2;
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
            self.creation_time.clone(),
            self.description.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: VswitchCommand) -> Result<()> {
    let mut service = context.cloud.vpcs();
    let region_id = context.region.clone();
    match command {
        VswitchCommand::Create { vpc, cidr, zone, name, description, client_token: token } => {
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
            };
            let answer = service.create_v_switch(request).await?.into_inner();
            let id = answer.v_switch_id.clone();
            context.done(&answer, std::slice::from_ref(&id), &format!("VSwitch {id} created"));
        }
        VswitchCommand::List { id, vpc, zone } => {
            let vswitches = pages::all(async |page_number| {
                let request = DescribeVSwitchesRequest {
                    region_id: region_id.clone(),
                    vpc_id: vpc.clone(),
                    v_switch_id: id.clone(),
                    zone_id: zone.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                };
                let answer = service.describe_v_switches(request).await?.into_inner();
                Ok((answer.v_switches, answer.total_count))
            })
            .await?;
            table::print(context.format, &vswitches);
        }
        VswitchCommand::Delete { id } => {
            let request = DeleteVSwitchRequest { region_id, v_switch_id: id.clone() };
            let answer = service.delete_v_switch(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("VSwitch {id} deleted"));
        }
    }
    Ok(())
}
