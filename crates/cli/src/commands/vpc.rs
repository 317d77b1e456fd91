//! `ecsctl vpc`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::Result,
    output::table::{self, Row},
};
use api::v1::{CreateVpcRequest, DeleteVpcRequest, DescribeVpcsRequest, Vpc};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum VpcCommand {
    /// Creates a VPC
    #[command(after_help = "Example:\n  ecsctl vpc create --name web --cidr 10.0.0.0/8")]
    Create {
        /// Its addresses; default 172.16.0.0/12
        #[arg(long, default_value = "", hide_default_value = true)]
        cidr: String,
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
    /// Lists VPCs
    #[command(after_help = "Example:\n  ecsctl vpc list --name web")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Deletes an empty VPC
    #[command(after_help = "Example:\n  ecsctl vpc delete vpc-1")]
    Delete { id: String },
}

impl Row for Vpc {
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "CIDR", "STATUS", "VSWITCHES", "CREATED", "DESCRIPTION"];
    const WIDE: usize = 2;
    fn id(&self) -> String {
        self.vpc_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.vpc_id.clone(),
            self.vpc_name.clone(),
            self.cidr_block.clone(),
            self.status.clone(),
            self.v_switch_ids.len().to_string(),
            self.creation_time.clone(),
            self.description.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: VpcCommand) -> Result<()> {
    let mut service = context.cloud.vpcs();
    let region_id = context.region.clone();
    match command {
        VpcCommand::Create { cidr, name, description, client_token: token, dry_run } => {
            let request = CreateVpcRequest {
                region_id,
                cidr_block: cidr,
                vpc_name: name,
                description,
                client_token: client_token(token),
                dry_run,
            };
            let answer = service.create_vpc(request).await?.into_inner();
            let id = answer.vpc_id.clone();
            context.done(&answer, std::slice::from_ref(&id), &format!("VPC {id} created"));
        }
        VpcCommand::List { ids, name } => {
            let vpcs = pages::all(async |page_number| {
                let request = DescribeVpcsRequest {
                    region_id: region_id.clone(),
                    vpc_id: ids.join(","),
                    vpc_name: name.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                };
                let answer = service.describe_vpcs(request).await?.into_inner();
                Ok((answer.vpcs, answer.total_count))
            })
            .await?;
            table::print(context.format, &vpcs);
        }
        VpcCommand::Delete { id } => {
            let request = DeleteVpcRequest { region_id, vpc_id: id.clone() };
            let answer = service.delete_vpc(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("VPC {id} deleted"));
        }
    }
    Ok(())
}
