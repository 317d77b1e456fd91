//! Who is in a group.

use super::Context;
use crate::error::Result;
use api::v1::{JoinSecurityGroupRequest, LeaveSecurityGroupRequest};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct MemberArguments {
    id: String,
    /// Instance (i-...), or secondary network interface (eni-...)
    member: String,
}

impl MemberArguments {
    /// Instance and interface, one of them empty.
    fn split(&self) -> (String, String) {
        if self.member.starts_with("eni-") {
            (String::new(), self.member.clone())
        } else {
            (self.member.clone(), String::new())
        }
    }
}

pub(super) async fn join(context: &Context, arguments: MemberArguments) -> Result<()> {
    let (instance_id, network_interface_id) = arguments.split();
    let request = JoinSecurityGroupRequest {
        region_id: context.region.clone(),
        security_group_id: arguments.id.clone(),
        instance_id,
        network_interface_id,
    };
    let answer = context.cloud.security_groups().join_security_group(request).await?.into_inner();
    let sentence = format!("{} is in security group {}", arguments.member, arguments.id);
    context.done(&answer, &[arguments.id], &sentence);
    Ok(())
}

pub(super) async fn leave(context: &Context, arguments: MemberArguments) -> Result<()> {
    let (instance_id, network_interface_id) = arguments.split();
    let request = LeaveSecurityGroupRequest {
        region_id: context.region.clone(),
        security_group_id: arguments.id.clone(),
        instance_id,
        network_interface_id,
    };
    let answer = context.cloud.security_groups().leave_security_group(request).await?.into_inner();
    let sentence = format!("{} is in security group {} no more", arguments.member, arguments.id);
    context.done(&answer, &[arguments.id], &sentence);
    Ok(())
}
