//! How many interfaces, addresses and queues an instance type allows.

use crate::ecs_error::refuse;
use catalog::InstanceType;
use store::{EniRecord, Refusal};

/// Interfaces of an instance whose type has no published figure: what the largest types have.
const MOST_ENIS: u32 = 15;
/// Addresses of an interface at an instance whose type has no published figure: what the largest have.
const MOST_ADDRESSES: u32 = 50;
/// Secondary addresses of an interface that is at no instance (`AssignPrivateIpAddresses`).
pub(crate) const MOST_LOOSE_SECONDARY: usize = 10;

fn named(kind: Option<&InstanceType>) -> &str {
    kind.map_or("of an unknown type", |kind| kind.id.as_str())
}

/// That an instance may have so many interfaces.
pub(crate) fn check_count(kind: Option<&InstanceType>, count: usize) -> Result<(), Refusal> {
    let most = kind.and_then(|kind| kind.enis).unwrap_or(MOST_ENIS);
    if count <= most as usize {
        return Ok(());
    }
    Err(refuse(
        403,
        "EniPerInstanceLimitExceeded",
        format!(
            "an instance {} has at most {most} network interfaces, the primary one included; detach \
             one first, or use a larger type",
            named(kind)
        ),
    ))
}

/// That one interface of an instance may have so many private addresses, the primary one included.
pub(crate) fn check_addresses(kind: Option<&InstanceType>, count: usize) -> Result<(), Refusal> {
    let most = kind.and_then(|kind| kind.ips_per_eni).unwrap_or(MOST_ADDRESSES);
    if count <= most as usize {
        return Ok(());
    }
    Err(refuse(
        403,
        "InvalidOperation.Ipv4CountExceeded",
        format!(
            "{count} private addresses are more than the {most} that one network interface of an \
             instance {} has, the primary one included; unassign some",
            named(kind)
        ),
    ))
}

/// That an interface of an instance may have its number of queues.
pub(crate) fn check_queues(kind: Option<&InstanceType>, eni: &EniRecord) -> Result<(), Refusal> {
    let most = kind.map_or(1, |kind| kind.nic_queues.unwrap_or(1).clamp(1, kind.vcpus.max(1)));
    if eni.queues <= most {
        return Ok(());
    }
    Err(refuse(
        403,
        "InvalidOperation.ExceedInstanceTypeQueueNumber",
        format!(
            "{} queues are more than the {most} that one network interface of an instance {} has; \
             give a smaller queue_number",
            eni.queues,
            named(kind)
        ),
    ))
}
