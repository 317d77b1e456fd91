//! `--wait`.

use super::{Context, by_ids};
use crate::{
    error::{Error, Result},
    output::progress::Progress,
};
use api::v1::NetworkInterface;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArguments {
    /// Come back only when it is so
    #[arg(long)]
    pub(super) wait: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 300, requires = "wait")]
    timeout: u64,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// At its instance.
    InUse,
    /// At none.
    Available,
}

impl Goal {
    fn text(self) -> &'static str {
        match self {
            Self::InUse => "InUse",
            Self::Available => "Available",
        }
    }
}

/// Waits until the interface is as wanted, if `--wait` was given. A cloud that is away meanwhile is
/// asked again until the time is up.
pub(super) async fn until(
    context: &Context,
    id: &String,
    goal: Goal,
    arguments: &WaitArguments,
) -> Result<()> {
    if !arguments.wait {
        return Ok(());
    }
    let name = format!("network interface {id}");
    let progress = Progress::start(&name, Duration::from_secs(arguments.timeout));
    loop {
        let found = match by_ids(context, std::slice::from_ref(id)).await {
            Ok(found) => found.into_iter().next(),
            Err(error) if error.is_transient() && !progress.is_late() => {
                progress.set(&format!("the cloud does not answer ({error}); asking again"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if found.as_ref().is_some_and(|eni| eni.status == goal.text()) {
            progress.done(goal.text());
            return Ok(());
        }
        let said = summary(found.as_ref());
        progress.set(&said);
        if progress.is_late() {
            progress.done(&said);
            return Err(Error::TimedOut(format!(
                "{name} not {} after {} s: {said}. `ecsctl eni show` says more; --timeout waits \
                 longer",
                goal.text(),
                arguments.timeout
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn summary(eni: Option<&NetworkInterface>) -> String {
    match eni {
        None => "not listed".to_owned(),
        Some(eni) if eni.status_reason.is_empty() => eni.status.clone(),
        Some(eni) => format!("{}: {}", eni.status, eni.status_reason),
    }
}
