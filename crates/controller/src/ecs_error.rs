//! Errors of the ECS API, and how they travel on gRPC.

use store::{Refusal, StoreError};
use tonic::{Code, Status};

/// Builds a refusal.
pub(crate) fn refuse(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { status, code: code.into(), message: message.into() }
}

/// 400 `InvalidParameter`.
pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
    refuse(400, "InvalidParameter", message)
}

/// 400 `MissingParameter`.
pub(crate) fn missing(parameter: &str) -> Refusal {
    refuse(400, "MissingParameter", format!("parameter {parameter} is missing; give it a value"))
}

/// 404 of an instance.
pub(crate) fn instance_not_found(instance_id: &str) -> Refusal {
    not_found("InvalidInstanceId.NotFound", "instance", instance_id, "DescribeInstances")
}

/// 404 of a disk.
pub(crate) fn disk_not_found(disk_id: &str) -> Refusal {
    not_found("InvalidDiskId.NotFound", "disk", disk_id, "DescribeDisks")
}

/// 404 of a snapshot.
pub(crate) fn snapshot_not_found(snapshot_id: &str) -> Refusal {
    not_found("InvalidSnapshotId.NotFound", "snapshot", snapshot_id, "DescribeSnapshots")
}

/// 404 of a snapshot policy.
pub(crate) fn policy_not_found(policy_id: &str) -> Refusal {
    let list = "DescribeAutoSnapshotPolicyEx";
    not_found("InvalidAutoSnapshotPolicyId.NotFound", "snapshot policy", policy_id, list)
}

/// 404 of an image.
pub(crate) fn image_not_found(image_id: &str) -> Refusal {
    not_found("InvalidImageId.NotFound", "image", image_id, "DescribeImages")
}

/// 404 of a VPC.
pub(crate) fn vpc_not_found(vpc_id: &str) -> Refusal {
    not_found("InvalidVpcId.NotFound", "VPC", vpc_id, "DescribeVpcs")
}

/// 404 of a VSwitch.
pub(crate) fn vswitch_not_found(vswitch_id: &str) -> Refusal {
    not_found("InvalidVSwitchId.NotFound", "VSwitch", vswitch_id, "DescribeVSwitches")
}

/// 404 of a key pair.
pub(crate) fn key_pair_not_found(name: &str) -> Refusal {
    refuse(
        404,
        "InvalidKeyPairName.NotFound",
        format!("key pair {name:?} does not exist; create or import it first"),
    )
}

/// 404 of a network interface.
pub(crate) fn eni_not_found(eni_id: &str) -> Refusal {
    not_found("InvalidEniId.NotFound", "network interface", eni_id, "DescribeNetworkInterfaces")
}

/// 404 of an instance, as actions of network interfaces call it.
pub(crate) fn ecs_not_found(instance_id: &str) -> Refusal {
    not_found("InvalidEcsId.NotFound", "instance", instance_id, "DescribeInstances")
}

/// 404 of a security group.
pub(crate) fn group_not_found(group_id: &str) -> Refusal {
    let list = "DescribeSecurityGroups";
    not_found("InvalidSecurityGroupId.NotFound", "security group", group_id, list)
}

/// 404 of a route table.
pub(crate) fn route_table_not_found(id: &str) -> Refusal {
    not_found("InvalidRouteTableId.NotFound", "route table", id, "DescribeRouteTableList")
}

/// 404 of a route entry.
pub(crate) fn route_entry_not_found(id: &str) -> Refusal {
    not_found("InvalidRouteEntry.NotFound", "route entry", id, "DescribeRouteEntryList")
}

/// 404 of an EIP.
pub(crate) fn eip_not_found(id: &str) -> Refusal {
    not_found("InvalidAllocationId.NotFound", "EIP", id, "DescribeEipAddresses")
}

/// 404 of a NAT gateway.
pub(crate) fn nat_gateway_not_found(id: &str) -> Refusal {
    not_found("InvalidNatGatewayId.NotFound", "NAT gateway", id, "DescribeNatGateways")
}

/// 404 of a prefix list.
pub(crate) fn prefix_list_not_found(id: &str) -> Refusal {
    not_found("InvalidPrefixListId.NotFound", "prefix list", id, "DescribePrefixLists")
}

fn not_found(code: &'static str, what: &str, id: &str, list: &str) -> Refusal {
    refuse(404, code, format!("{what} {id} does not exist; {list} lists them"))
}

/// The answer to a dry run that found nothing wrong: ECS gives it as an error.
pub(crate) fn dry_run() -> Refusal {
    refuse(412, "DryRunOperation", "the request would have succeeded; dry_run is set")
}

/// 501: what is not built yet.
pub(crate) fn unsupported(message: impl Into<String>) -> Refusal {
    refuse(501, "UnsupportedOperation", message)
}

/// Turns a store error into what a caller of the API is told.
pub(crate) fn from_store(error: StoreError) -> Refusal {
    match error {
        StoreError::Refused(refusal) => refusal,
        error @ StoreError::TokenMismatch { .. } => {
            refuse(403, "IdempotentParameterMismatch", error.to_string())
        }
        error @ (StoreError::HostFull { .. } | StoreError::PoolFull { .. }) => {
            refuse(403, "OperationDenied.NoStock", error.to_string())
        }
        error @ StoreError::NoFreeAddress { .. } => {
            refuse(403, "InvalidVSwitchId.IpNotEnough", error.to_string())
        }
        error @ StoreError::AddressInUse { .. } => {
            refuse(400, "InvalidPrivateIpAddress.Duplicated", error.to_string())
        }
        error @ StoreError::StaleSession { .. } => refuse(412, "StaleSession", error.to_string()),
        error @ StoreError::AlreadyExists { .. } => refuse(409, "AlreadyExist", error.to_string()),
        error @ (StoreError::Compacted { .. } | StoreError::Backend(_)) => {
            tracing::error!(%error, "the store failed");
            refuse(500, "InternalError", "the control plane's store failed; try again")
        }
    }
}

/// Puts a refusal on gRPC.
pub(crate) fn to_status(refusal: &Refusal, request_id: &str) -> Status {
    let code = grpc_code(refusal.status, &refusal.code);
    api::error::status(code, &refusal.code, refusal.message.clone(), request_id)
}

fn grpc_code(status: u16, code: &str) -> Code {
    let exhausted = ["NoStock", "Quota", "LimitExceed", "IpNotEnough", "InsufficientPublicIp"];
    if exhausted.iter().any(|part| code.contains(part)) {
        return Code::ResourceExhausted;
    }
    if code.contains("AlreadyExist") || code.contains("Duplicated") {
        return Code::AlreadyExists;
    }
    match status {
        400 if code == "Idempotence.Processing" => Code::Aborted,
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 if code.starts_with("Forbidden") => Code::PermissionDenied,
        403 | 412 => Code::FailedPrecondition,
        404 => Code::NotFound,
        409 => Code::Aborted,
        501 => Code::Unimplemented,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_like_status_maps_to_grpc() {
        assert_eq!(grpc_code(404, "InvalidInstanceId.NotFound"), Code::NotFound);
        assert_eq!(grpc_code(403, "IncorrectInstanceStatus"), Code::FailedPrecondition);
        assert_eq!(grpc_code(403, "OperationDenied.NoStock"), Code::ResourceExhausted);
        assert_eq!(grpc_code(400, "MissingParameter"), Code::InvalidArgument);
        assert_eq!(grpc_code(400, "KeyPair.AlreadyExist"), Code::AlreadyExists);
        assert_eq!(grpc_code(501, "UnsupportedOperation"), Code::Unimplemented);
    }
}
