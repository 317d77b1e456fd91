//! `ecsctl vpc`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::{Error, Result},
    output::table::{self, Row},
};
use api::v1::{
    AssociateVpcCidrBlockRequest, CreateVpcRequest, DeleteVpcRequest, DescribeVpcsRequest,
    ModifyVpcAttributeRequest, UnassociateVpcCidrBlockRequest, Vpc,
};
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
        /// With IPv6: the VPC gets a /56
        #[arg(long)]
        ipv6: bool,
    },
    /// Lists VPCs
    #[command(after_help = "Example:\n  ecsctl vpc list --name web")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Shows a VPC and what is in it
    #[command(after_help = "Example:\n  ecsctl vpc show vpc-1")]
    Show { id: String },
    /// Changes a VPC's name, description or IPv6
    #[command(after_help = "Example:\n  ecsctl vpc modify vpc-1 --name prod --ipv6 true")]
    Modify {
        id: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        #[arg(long, value_name = "BOOL")]
        ipv6: Option<bool>,
    },
    /// Adds a secondary CIDR block
    #[command(after_help = "Example:\n  ecsctl vpc add-cidr vpc-1 192.168.0.0/16")]
    AddCidr { id: String, cidr: String },
    /// Removes a secondary CIDR block that no VSwitch is in
    #[command(after_help = "Example:\n  ecsctl vpc remove-cidr vpc-1 192.168.0.0/16")]
    RemoveCidr { id: String, cidr: String },
    /// Deletes an empty VPC
    #[command(after_help = "Example:\n  ecsctl vpc delete vpc-1")]
    Delete { id: String },
}

impl Row for Vpc {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "CIDR",
        "STATUS",
        "VSWITCHES",
        "SECONDARY",
        "IPV6",
        "CREATED",
        "DESCRIPTION",
    ];
    const WIDE: usize = 4;
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
            self.secondary_cidr_blocks.join(" "),
            self.ipv6_cidr_block.clone(),
            self.creation_time.clone(),
            self.description.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: VpcCommand) -> Result<()> {
    let mut service = context.cloud.vpcs();
    let region_id = context.region.clone();
    match command {
        VpcCommand::Create { cidr, name, description, client_token: token, dry_run, ipv6 } => {
            let request = CreateVpcRequest {
                region_id,
                cidr_block: cidr,
                vpc_name: name,
                description,
                client_token: client_token(token),
                dry_run,
                enable_ipv6: ipv6,
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
        VpcCommand::Show { id } => {
            let request =
                DescribeVpcsRequest { region_id, vpc_id: id.clone(), ..Default::default() };
            let answer = service.describe_vpcs(request).await?.into_inner();
            let vpc = answer.vpcs.first().ok_or_else(|| {
                Error::NotFound(format!("VPC {id} does not exist; `ecsctl vpc list`"))
            })?;
            table::print_one(context.format, vpc);
        }
        VpcCommand::Modify { id, name, description, ipv6 } => {
            let request = ModifyVpcAttributeRequest {
                region_id,
                vpc_id: id.clone(),
                vpc_name: name,
                description,
                enable_ipv6: ipv6,
            };
            let answer = service.modify_vpc_attribute(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("VPC {id} changed"));
        }
        VpcCommand::AddCidr { id, cidr } => {
            let request = AssociateVpcCidrBlockRequest {
                region_id,
                vpc_id: id.clone(),
                secondary_cidr_block: cidr.clone(),
            };
            let answer = service.associate_vpc_cidr_block(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("VPC {id} has {cidr} too"));
        }
        VpcCommand::RemoveCidr { id, cidr } => {
            let request = UnassociateVpcCidrBlockRequest {
                region_id,
                vpc_id: id.clone(),
                secondary_cidr_block: cidr.clone(),
            };
            let answer = service.unassociate_vpc_cidr_block(request).await?.into_inner();
            let sentence = format!("VPC {id} has {cidr} no more");
            context.done(&answer, &[id], &sentence);
        }
        VpcCommand::Delete { id } => {
            let request = DeleteVpcRequest { region_id, vpc_id: id.clone() };
            let answer = service.delete_vpc(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("VPC {id} deleted"));
        }
    }
    Ok(())
}
