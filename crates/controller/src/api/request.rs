//! Client tokens, and answers that are kept with them.

use crate::{
    ecs_error::{from_store, invalid, refuse},
    timestamp::now_ms,
};
use prost::Message;
use sha2::{Digest as _, Sha256};
use store::{Answer, ClientToken, Refusal, StoreError};

/// The client token of a request; none if it gave none.
pub(super) fn token<M: Message>(
    action: &str,
    token: &str,
    request: &M,
) -> Result<Option<ClientToken>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() > 64 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse(
            400,
            "InvalidClientToken.ValueNotSupported",
            "client_token must be at most 64 printable ASCII characters without spaces",
        ));
    }
    Ok(Some(ClientToken {
        action: action.to_owned(),
        token: token.to_owned(),
        request_hash: Sha256::digest(request.encode_to_vec()).to_vec(),
        now_ms: now_ms(),
    }))
}

/// The response a transaction answered, now or the first time.
pub(super) fn response<M: Message + Default>(
    answer: Result<Answer, StoreError>,
) -> Result<M, Refusal> {
    let answer = answer.map_err(from_store)?;
    M::decode(answer.bytes.as_slice()).map_err(|error| {
        tracing::error!(%error, "a kept answer cannot be read");
        refuse(500, "InternalError", "the answer kept for this client token cannot be read")
    })
}

/// Refuses a list that is longer than ECS takes.
pub(super) fn at_most_100(parameter: &str, given: usize) -> Result<(), Refusal> {
    if given <= 100 {
        return Ok(());
    }
    Err(invalid(format!("{given} values of {parameter} are given; give at most 100")))
}
