//! Static public addresses.

use super::Context;
use crate::error::Result;
use api::v1::{
    AllocatePublicIpAddressRequest, ConvertNatPublicIpToEipRequest,
    ModifyInstanceNetworkSpecRequest,
};
use clap::Args;

pub(super) const EXAMPLES: &str = "Examples:
  ecsctl instance allocate-public-ip i-1 --bandwidth 10
  ecsctl instance allocate-public-ip i-1 --address 203.0.113.9

An instance that has one keeps it; --bandwidth changes how fast it is.";

#[derive(Debug, Args)]
pub(crate) struct AllocateArguments {
    id: String,
    /// Mbit/s, 1 to 100; default: what the instance was made with
    #[arg(long)]
    bandwidth: Option<u32>,
    /// Default: any free one
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
}

pub(super) async fn allocate(context: &Context, arguments: AllocateArguments) -> Result<()> {
    let AllocateArguments { id, bandwidth, address } = arguments;
    let mut service = context.cloud.instances();
    if bandwidth.is_some() {
        let request = ModifyInstanceNetworkSpecRequest {
            instance_id: id.clone(),
            internet_max_bandwidth_out: bandwidth,
            ..Default::default()
        };
        service.modify_instance_network_spec(request).await?;
    }
    let request = AllocatePublicIpAddressRequest { instance_id: id.clone(), ip_address: address };
    let answer = service.allocate_public_ip_address(request).await?.into_inner();
    let address = answer.ip_address.clone();
    let sentence = format!("instance {id} has the static public address {address}");
    context.done(&answer, &[address], &sentence);
    Ok(())
}

pub(super) async fn convert(context: &Context, id: String) -> Result<()> {
    let request = ConvertNatPublicIpToEipRequest {
        region_id: context.region.clone(),
        instance_id: id.clone(),
    };
    let mut service = context.cloud.instances();
    let answer = service.convert_nat_public_ip_to_eip(request).await?.into_inner();
    let sentence =
        format!("the public address of instance {id} is an EIP now; `ecsctl eip list` shows it");
    context.done(&answer, &[id], &sentence);
    Ok(())
}
