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

/// IPv6 addresses of an interface that is at no instance (`AssignIpv6Addresses`).
pub(crate) const MOST_LOOSE_IPV6: usize = 10;

/// Disks and interfaces of one machine together: its bus has no more slots for them.
pub(crate) const MOST_DEVICES: usize = 30;

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

/// That an instance with so many disks may have so many interfaces.
pub(crate) fn check_devices(disks: usize, enis: usize) -> Result<(), Refusal> {
    if disks + enis <= MOST_DEVICES {
        return Ok(());
    }
    Err(refuse(
        403,
        "EniPerInstanceLimitExceeded",
        format!(
            "{disks} disks and {enis} network interfaces are too many for one instance, which has \
             {MOST_DEVICES} in all; detach some first"
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

/// That one interface of an instance may have so many IPv6 addresses. Of a type without a published
/// figure an interface has as many as private IPv4 ones.
pub(crate) fn check_ipv6(kind: Option<&InstanceType>, count: usize) -> Result<(), Refusal> {
    let published = kind.and_then(|kind| kind.ipv6s_per_eni.or(kind.ips_per_eni));
    let most = published.unwrap_or(MOST_ADDRESSES);
    if count <= most as usize {
        return Ok(());
    }
    if most == 0 {
        return Err(refuse(
            403,
            "InvalidOperation.Ipv6NotSupport",
            format!("instances {} have no IPv6; use another type", named(kind)),
        ));
    }
    Err(refuse(
        403,
        "InvalidOperation.Ipv6CountExceeded",
        format!(
            "{count} IPv6 addresses are more than the {most} that one network interface of an \
             instance {} has; unassign some",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_limit_what_their_instances_have() {
        let kind = catalog::instance_type("ecs.c7.large");
        let code = |result: Result<(), Refusal>| result.unwrap_err().code;
        assert!(check_count(kind, 3).is_ok() && check_addresses(kind, 6).is_ok());
        assert_eq!(code(check_count(kind, 4)), "EniPerInstanceLimitExceeded");
        assert_eq!(code(check_addresses(kind, 7)), "InvalidOperation.Ipv4CountExceeded");
        assert!(check_ipv6(kind, 6).is_ok());
        assert_eq!(code(check_ipv6(kind, 7)), "InvalidOperation.Ipv6CountExceeded");
        let none = catalog::instance_type("ecs.xn4.small");
        assert!(check_ipv6(none, 0).is_ok());
        assert_eq!(code(check_ipv6(none, 1)), "InvalidOperation.Ipv6NotSupport");
        let with = |queues| EniRecord { queues, ..Default::default() };
        assert!(check_queues(kind, &with(2)).is_ok());
        let exceeded = "InvalidOperation.ExceedInstanceTypeQueueNumber";
        assert_eq!(code(check_queues(kind, &with(3))), exceeded);
        // Nobody publishes figures of this one.
        let kind = catalog::instance_type("ecs.c7.small");
        assert!(check_count(kind, 15).is_ok() && check_addresses(kind, 50).is_ok());
        assert!(check_count(kind, 16).is_err() && check_addresses(kind, 51).is_err());
        assert!(check_devices(17, 13).is_ok());
        assert_eq!(code(check_devices(17, 14)), "EniPerInstanceLimitExceeded");
    }
}
