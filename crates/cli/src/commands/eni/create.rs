//! New network interfaces.

use super::Context;
use crate::{client::client_token, error::Result};
use api::v1::{CreateNetworkInterfaceRequest, Tag};
use clap::Args;

pub(super) const EXAMPLES: &str = "Examples:
  ecsctl eni create --vswitch vsw-1 --security-group sg-1 --name backend
  ecsctl eni create --vswitch vsw-1 --security-group sg-1 --address 172.16.1.7 --more-addresses 2
  ecsctl eni create --vswitch vsw-1 --security-group sg-1 --ipv6-count 1
  ecsctl eni create --vswitch vsw-1 --security-group sg-1 --keep";

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    #[arg(long)]
    vswitch: String,
    /// Security group; several for more
    #[arg(long = "security-group", required = true)]
    security_groups: Vec<String>,
    /// Primary private address; default: a free one
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
    /// A secondary private address; several for more
    #[arg(long = "secondary-address", conflicts_with = "more_addresses")]
    secondary_addresses: Vec<String>,
    /// So many free secondary private addresses
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    more_addresses: u32,
    /// An IPv6 address; several for more
    #[arg(long = "ipv6", conflicts_with = "ipv6_count")]
    ipv6: Vec<String>,
    /// So many free IPv6 addresses
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ipv6_count: u32,
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Keep it when the instance it is at is deleted
    #[arg(long)]
    keep: bool,
    /// Let it send from, and be sent, addresses that are not its own
    #[arg(long)]
    no_source_dest_check: bool,
    /// Queues; default: 1
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    queues: u32,
    /// KEY=VALUE; several for more
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<Tag>,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
}

pub(super) async fn create(context: &Context, arguments: CreateArguments) -> Result<()> {
    let request = CreateNetworkInterfaceRequest {
        region_id: context.region.clone(),
        v_switch_id: arguments.vswitch,
        security_group_ids: arguments.security_groups,
        primary_ip_address: arguments.address,
        private_ip_address: arguments.secondary_addresses,
        secondary_private_ip_address_count: arguments.more_addresses,
        ipv6_address: arguments.ipv6,
        ipv6_address_count: arguments.ipv6_count,
        network_interface_name: arguments.name,
        description: arguments.description,
        delete_on_release: arguments.keep.then_some(false),
        source_dest_check: arguments.no_source_dest_check.then_some(false),
        queue_number: arguments.queues,
        tag: arguments.tags,
        client_token: client_token(arguments.client_token),
        ..Default::default()
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.create_network_interface(request).await?.into_inner();
    let id = answer.network_interface_id.clone();
    let sentence = format!("network interface {id} created, {}", answer.private_ip_address);
    context.done(&answer, std::slice::from_ref(&id), &sentence);
    Ok(())
}
