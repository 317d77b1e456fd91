//! ECS errors on gRPC: the ECS code travels as the reason of `google.rpc.ErrorInfo`.

use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `google.rpc.ErrorInfo.domain` of every error this cloud makes.
pub const DOMAIN: &str = "ecs";

/// Builds a status that carries an ECS error code.
///
/// `message` says what is wrong with which resource and what to do about it.
pub fn status(code: Code, ecs_code: &str, message: impl Into<String>, request_id: &str) -> Status {
    let metadata = HashMap::from([("request_id".to_owned(), request_id.to_owned())]);
    let details = ErrorDetails::with_error_info(ecs_code, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// The ECS code a status carries, if any.
pub fn ecs_code(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason)
}

/// The request id a status carries, if any.
pub fn request_id(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .and_then(|info| info.metadata.get("request_id").cloned())
}
