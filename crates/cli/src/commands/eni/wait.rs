//! `--wait`.

use super::{Context, by_ids};
use crate::{
    commands::network_wait::{self, Standing},
    error::Result,
};

pub(crate) use network_wait::WaitArguments;

/// Status of an interface that is at its instance.
pub(super) const IN_USE: &str = "InUse";
/// Status of one that is at none.
pub(super) const AVAILABLE: &str = "Available";

/// Waits until the interface has the status, if `--wait` was given.
pub(super) async fn until(
    context: &Context,
    id: &str,
    status: &str,
    arguments: &WaitArguments,
) -> Result<()> {
    network_wait::until(&format!("network interface {id}"), status, arguments, async || {
        let found = by_ids(context, &[id.to_owned()]).await?.into_iter().next();
        Ok(found.map(|eni| Standing { status: eni.status, reason: eni.status_reason }))
    })
    .await
}
