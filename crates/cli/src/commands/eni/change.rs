//! Changing where an interface is and what it is like.

use super::{
    Context, find,
    wait::{self, WaitArguments},
};
use crate::{
    client::client_token,
    error::{Error, Result},
};
use api::v1::{
    AssignIpv6AddressesRequest, AssignPrivateIpAddressesRequest, AttachNetworkInterfaceRequest,
    DeleteNetworkInterfaceRequest, DetachNetworkInterfaceRequest,
    ModifyNetworkInterfaceAttributeRequest, UnassignIpv6AddressesRequest,
    UnassignPrivateIpAddressesRequest,
};
use clap::{ArgGroup, Args};

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    eni: String,
    instance: String,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct DetachArguments {
    eni: String,
    /// The instance it is at; default: whichever
    instance: Option<String>,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("attribute").required(true).multiple(true).args([
    "name", "description", "security_groups", "queues", "source_dest_check", "delete_on_release",
]))]
pub(crate) struct ModifyArguments {
    id: String,
    #[arg(long)]
    name: Option<String>,
    /// Empty: none
    #[arg(long)]
    description: Option<String>,
    /// Every security group it is to be in; several for more
    #[arg(long = "security-group")]
    security_groups: Vec<String>,
    /// Queues, while it is at no instance or at a stopped one
    #[arg(long)]
    queues: Option<u32>,
    /// Whether it sends from, and is sent, its own addresses only
    #[arg(long, value_name = "true|false")]
    source_dest_check: Option<bool>,
    /// Whether it goes when its instance is deleted
    #[arg(long, value_name = "true|false")]
    delete_on_release: Option<bool>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["addresses", "count"]))]
pub(crate) struct AssignArguments {
    id: String,
    addresses: Vec<String>,
    /// So many free ones
    #[arg(long)]
    count: Option<u32>,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
}

pub(super) async fn attach(context: &Context, arguments: AttachArguments) -> Result<()> {
    let AttachArguments { eni, instance, wait } = arguments;
    let request = AttachNetworkInterfaceRequest {
        region_id: context.region.clone(),
        network_interface_id: eni.clone(),
        instance_id: instance.clone(),
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.attach_network_interface(request).await?.into_inner();
    wait::until(context, &eni, wait::IN_USE, &wait).await?;
    let what = if wait.wait { "is attached" } else { "is being attached" };
    let sentence = format!("network interface {eni} {what} to instance {instance}");
    context.done(&answer, &[eni], &sentence);
    Ok(())
}

pub(super) async fn detach(context: &Context, arguments: DetachArguments) -> Result<()> {
    let DetachArguments { eni, instance, wait } = arguments;
    let instance_id = match instance {
        Some(instance) => instance,
        None => match find(context, &eni).await?.instance_id {
            none if none.is_empty() => {
                return Err(Error::Failed(format!("network interface {eni} is at no instance")));
            }
            instance => instance,
        },
    };
    let request = DetachNetworkInterfaceRequest {
        region_id: context.region.clone(),
        network_interface_id: eni.clone(),
        instance_id: instance_id.clone(),
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.detach_network_interface(request).await?.into_inner();
    wait::until(context, &eni, wait::AVAILABLE, &wait).await?;
    let what = if wait.wait { "is detached" } else { "is being detached" };
    let sentence = format!("network interface {eni} {what} from instance {instance_id}");
    context.done(&answer, &[eni], &sentence);
    Ok(())
}

pub(super) async fn delete(context: &Context, ids: Vec<String>) -> Result<()> {
    let mut service = context.cloud.network_interfaces();
    let mut answers = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let request = DeleteNetworkInterfaceRequest {
            region_id: context.region.clone(),
            network_interface_id: id.clone(),
        };
        let answer = service.delete_network_interface(request).await;
        let answer = answer.map_err(|status| match ids[..index].join(", ") {
            none if none.is_empty() => Error::from(status),
            done => Error::from(status).ordered(format!("deleted all the same: {done}")),
        })?;
        answers.push(answer.into_inner());
    }
    context.done(&answers, &ids, &format!("network interface {} deleted", ids.join(", ")));
    Ok(())
}

pub(super) async fn modify(context: &Context, arguments: ModifyArguments) -> Result<()> {
    let request = ModifyNetworkInterfaceAttributeRequest {
        region_id: context.region.clone(),
        network_interface_id: arguments.id.clone(),
        network_interface_name: arguments.name,
        description: arguments.description,
        security_group_id: arguments.security_groups,
        queue_number: arguments.queues,
        source_dest_check: arguments.source_dest_check,
        delete_on_release: arguments.delete_on_release,
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.modify_network_interface_attribute(request).await?.into_inner();
    let sentence = format!("network interface {} modified", arguments.id);
    context.done(&answer, &[arguments.id], &sentence);
    Ok(())
}

pub(super) async fn assign(context: &Context, arguments: AssignArguments) -> Result<()> {
    let request = AssignPrivateIpAddressesRequest {
        region_id: context.region.clone(),
        network_interface_id: arguments.id.clone(),
        private_ip_address: arguments.addresses,
        secondary_private_ip_address_count: arguments.count.unwrap_or(0),
        client_token: client_token(arguments.client_token),
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.assign_private_ip_addresses(request).await?.into_inner();
    let addresses = answer.private_ip_set.join(", ");
    let sentence = format!("{addresses} assigned to network interface {}", arguments.id);
    let assigned = answer.private_ip_set.clone();
    context.done(&answer, &assigned, &sentence);
    Ok(())
}

pub(super) async fn unassign(context: &Context, id: String, addresses: Vec<String>) -> Result<()> {
    let request = UnassignPrivateIpAddressesRequest {
        region_id: context.region.clone(),
        network_interface_id: id.clone(),
        private_ip_address: addresses.clone(),
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.unassign_private_ip_addresses(request).await?.into_inner();
    let sentence = format!("{} taken from network interface {id}", addresses.join(", "));
    context.done(&answer, &[id], &sentence);
    Ok(())
}

pub(super) async fn assign_ipv6(context: &Context, arguments: AssignArguments) -> Result<()> {
    let request = AssignIpv6AddressesRequest {
        region_id: context.region.clone(),
        network_interface_id: arguments.id.clone(),
        ipv6_address: arguments.addresses,
        ipv6_address_count: arguments.count.unwrap_or(0),
        client_token: client_token(arguments.client_token),
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.assign_ipv6_addresses(request).await?.into_inner();
    let assigned = answer.ipv6_sets.clone();
    let sentence =
        format!("{} assigned to network interface {}", assigned.join(", "), arguments.id);
    context.done(&answer, &assigned, &sentence);
    Ok(())
}

pub(super) async fn unassign_ipv6(
    context: &Context,
    id: String,
    addresses: Vec<String>,
) -> Result<()> {
    let request = UnassignIpv6AddressesRequest {
        region_id: context.region.clone(),
        network_interface_id: id.clone(),
        ipv6_address: addresses.clone(),
    };
    let mut service = context.cloud.network_interfaces();
    let answer = service.unassign_ipv6_addresses(request).await?.into_inner();
    let sentence = format!("{} taken from network interface {id}", addresses.join(", "));
    context.done(&answer, &[id], &sentence);
    Ok(())
}
