//! `--wait`.

use super::{Context, by_ids};
use crate::{
    error::{Error, Result},
    output::progress::Progress,
};
use api::v1::Disk;
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
    /// What was changed of it is so on its host.
    InEffect,
    /// Deleted.
    Gone,
}

impl Goal {
    fn text(self) -> &'static str {
        match self {
            Self::InUse => "In_use",
            Self::Available => "Available",
            Self::InEffect => "in effect",
            Self::Gone => "deleted",
        }
    }

    /// Whether one disk is so; one that is gone is none.
    fn is_so(self, disk: Option<&Disk>) -> bool {
        match (self, disk) {
            (Self::Gone, found) => found.is_none(),
            (Self::InEffect, Some(disk)) => disk.in_effect && disk.status != "ReIniting",
            (Self::InUse | Self::Available, Some(disk)) => disk.status == self.text(),
            (_, None) => false,
        }
    }
}

/// Waits until every disk is as wanted, if `--wait` was given. A cloud that is away meanwhile is
/// asked again until the time is up.
pub(super) async fn until(
    context: &Context,
    ids: &[String],
    goal: Goal,
    arguments: &WaitArguments,
) -> Result<()> {
    if !arguments.wait {
        return Ok(());
    }
    let name = match ids {
        [id] => format!("disk {id}"),
        _ => format!("{} disks", ids.len()),
    };
    let progress = Progress::start(&name, Duration::from_secs(arguments.timeout));
    loop {
        let disks = match by_ids(context, ids).await {
            Ok(disks) => disks,
            Err(error) if error.is_transient() && !progress.is_late() => {
                progress.set(&format!("the cloud does not answer ({error}); asking again"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let of = |id: &String| disks.iter().find(|disk| disk.disk_id == *id);
        if ids.iter().all(|id| goal.is_so(of(id))) {
            progress.done(goal.text());
            return Ok(());
        }
        let said = summary(ids.iter().filter(|id| !goal.is_so(of(id))).find_map(of));
        progress.set(&said);
        if progress.is_late() {
            progress.done(&said);
            return Err(Error::TimedOut(format!(
                "{name} not {} after {} s: {said}. `ecsctl disk show` says more; --timeout waits \
                 longer",
                goal.text(),
                arguments.timeout
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn summary(disk: Option<&Disk>) -> String {
    match disk {
        None => "not listed".to_owned(),
        Some(disk) if disk.status_reason.is_empty() => disk.status.clone(),
        Some(disk) => format!("{}: {}", disk.status, disk.status_reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_told_by_status_and_effect() {
        let disk = |status: &str, in_effect| Disk {
            status: status.to_owned(),
            in_effect,
            ..Default::default()
        };
        assert!(Goal::InUse.is_so(Some(&disk("In_use", false))));
        assert!(!Goal::InEffect.is_so(Some(&disk("In_use", false))));
        assert!(!Goal::InEffect.is_so(Some(&disk("ReIniting", true))));
        assert!(Goal::InEffect.is_so(Some(&disk("In_use", true))));
        assert!(Goal::Gone.is_so(None) && !Goal::Gone.is_so(Some(&disk("Detaching", true))));
        assert!(!Goal::Available.is_so(None));
    }
}
