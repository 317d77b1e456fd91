//! `ecsctl eip`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::Result,
    output::table::{self, Row},
};
use api::v1::{
    AllocateEipAddressRequest, AssociateEipAddressRequest, DescribeEipAddressesRequest, EipAddress,
    ModifyEipAddressAttributeRequest, ReleaseEipAddressRequest, Tag, UnassociateEipAddressRequest,
};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum EipCommand {
    /// Allocates a public address
    #[command(after_help = "Examples:\n  ecsctl eip allocate --bandwidth 20 --name front\n  \
        ecsctl eip allocate --address 203.0.113.9")]
    Allocate {
        /// Mbit/s each way; default 5
        #[arg(long, default_value = "", hide_default_value = true)]
        bandwidth: String,
        /// PayByBandwidth (default) or PayByTraffic
        #[arg(long, default_value = "", hide_default_value = true)]
        charge: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// This address; default: any free one
        #[arg(long, default_value = "", hide_default_value = true)]
        address: String,
        /// KEY=VALUE; several for more
        #[arg(long = "tag", value_parser = super::tag)]
        tags: Vec<Tag>,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Lists EIPs
    #[command(after_help = "Examples:\n  ecsctl eip list\n  ecsctl eip list --instance i-1")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        address: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        status: String,
        /// Of this instance, network interface or NAT gateway
        #[arg(long, default_value = "", hide_default_value = true)]
        instance: String,
    },
    /// Associates an EIP with an instance, a network interface or a NAT gateway
    #[command(after_help = "Examples:\n  ecsctl eip associate eip-1 i-1\n  \
        ecsctl eip associate eip-1 eni-1 --private-address 172.16.1.7\n  \
        ecsctl eip associate eip-1 ngw-1")]
    Associate {
        id: String,
        /// i-..., eni-... or ngw-...
        with: String,
        /// Of the network interface; default: its primary one
        #[arg(long, default_value = "", hide_default_value = true)]
        private_address: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Takes an EIP from what it is associated with
    #[command(after_help = "Example:\n  ecsctl eip unassociate eip-1")]
    Unassociate {
        id: String,
        /// Of a NAT gateway: with the entries that use it
        #[arg(long)]
        force: bool,
    },
    /// Changes an EIP's bandwidth, name or description
    #[command(after_help = "Example:\n  ecsctl eip modify eip-1 --bandwidth 50")]
    Modify {
        id: String,
        /// Mbit/s each way
        #[arg(long, default_value = "", hide_default_value = true)]
        bandwidth: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
    },
    /// Gives a public address back
    #[command(after_help = "Example:\n  ecsctl eip release eip-1")]
    Release { id: String },
}

impl Row for EipAddress {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "ADDRESS",
        "NAME",
        "STATUS",
        "MBIT/S",
        "ASSOCIATED WITH",
        "PRIVATE ADDRESS",
        "VPC",
        "CHARGE",
        "ALLOCATED",
        "DESCRIPTION",
    ];
    const WIDE: usize = 4;
    fn id(&self) -> String {
        self.allocation_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.allocation_id.clone(),
            self.ip_address.clone(),
            self.name.clone(),
            self.status.clone(),
            self.bandwidth.clone(),
            self.instance_id.clone(),
            self.private_ip_address.clone(),
            self.vpc_id.clone(),
            self.internet_charge_type.clone(),
            self.allocation_time.clone(),
            self.description.clone(),
        ]
    }
}

fn kind(id: &str) -> String {
    match id.split('-').next() {
        Some("eni") => "NetworkInterface",
        Some("ngw") => "Nat",
        _ => "EcsInstance",
    }
    .to_owned()
}

pub(crate) async fn run(context: &Context, command: EipCommand) -> Result<()> {
    let mut service = context.cloud.eips();
    let region_id = context.region.clone();
    match command {
        EipCommand::Allocate {
            bandwidth,
            charge,
            name,
            description,
            address,
            tags,
            client_token: token,
        } => {
            let request = AllocateEipAddressRequest {
                region_id,
                bandwidth,
                internet_charge_type: charge,
                name,
                description,
                ip_address: address,
                client_token: client_token(token),
                tag: tags,
            };
            let answer = service.allocate_eip_address(request).await?.into_inner();
            let id = answer.allocation_id.clone();
            let sentence = format!("EIP {id} allocated: {}", answer.eip_address);
            context.done(&answer, &[id], &sentence);
        }
        EipCommand::List { ids, address, name, status, instance } => {
            let eips = pages::all(async |page_number| {
                let request = DescribeEipAddressesRequest {
                    region_id: region_id.clone(),
                    allocation_id: ids.join(","),
                    eip_address: address.clone(),
                    eip_name: name.clone(),
                    status: status.clone(),
                    associated_instance_id: instance.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    ..Default::default()
                };
                let answer = service.describe_eip_addresses(request).await?.into_inner();
                Ok((answer.eip_addresses, answer.total_count))
            })
            .await?;
            table::print(context.format, &eips);
        }
        EipCommand::Associate { id, with, private_address, client_token: token } => {
            let request = AssociateEipAddressRequest {
                region_id,
                allocation_id: id.clone(),
                instance_type: kind(&with),
                instance_id: with.clone(),
                private_ip_address: private_address,
                client_token: client_token(token),
            };
            let answer = service.associate_eip_address(request).await?.into_inner();
            let sentence = format!("EIP {id} ordered for {with}; it is Associating until InUse");
            context.done(&answer, &[id], &sentence);
        }
        EipCommand::Unassociate { id, force } => {
            let request = UnassociateEipAddressRequest {
                region_id,
                allocation_id: id.clone(),
                force,
                client_token: client_token(None),
                ..Default::default()
            };
            let answer = service.unassociate_eip_address(request).await?.into_inner();
            let sentence = format!("EIP {id} is Unassociating until Available");
            context.done(&answer, &[id], &sentence);
        }
        EipCommand::Modify { id, bandwidth, name, description } => {
            let request = ModifyEipAddressAttributeRequest {
                region_id,
                allocation_id: id.clone(),
                bandwidth,
                name,
                description,
            };
            let answer = service.modify_eip_address_attribute(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("EIP {id} changed"));
        }
        EipCommand::Release { id } => {
            let request = ReleaseEipAddressRequest { region_id, allocation_id: id.clone() };
            let answer = service.release_eip_address(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("EIP {id} released"));
        }
    }
    Ok(())
}
