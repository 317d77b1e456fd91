//! `--wait`.

use super::{Context, query};
use crate::{
    error::{Error, Result},
    output::progress::Progress,
};
use clap::Args;
use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArguments {
    /// Come back only when it is so
    #[arg(long)]
    wait: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 300, requires = "wait")]
    timeout: u64,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Running,
    Stopped,
    Gone,
}

impl Goal {
    fn text(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Stopped => "Stopped",
            Self::Gone => "deleted",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Running => "is Running",
            Self::Stopped => "is Stopped",
            Self::Gone => "is deleted",
        }
    }
}

impl WaitArguments {
    /// What an order has come to: that it was given, or, after the wait, that it is so.
    pub(super) fn sentence(&self, ids: &[String], ordered: &str, goal: Goal) -> String {
        let what = if self.wait { goal.sentence() } else { ordered };
        format!("instance {} {what}", ids.join(", "))
    }
}

/// Waits until every instance is as wanted, if `--wait` was given. A cloud that is away meanwhile is
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
        [id] => format!("instance {id}"),
        _ => format!("{} instances", ids.len()),
    };
    let progress = Progress::start(&name, Duration::from_secs(arguments.timeout));
    loop {
        let asked = query::describe(context, query::by_ids(context, ids)).await;
        let instances = match asked {
            Ok(instances) => instances,
            Err(error) if error.is_transient() && !progress.is_late() => {
                progress.set(&format!("the cloud does not answer ({error}); asking again"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let reached = match goal {
            Goal::Gone => instances.is_empty(),
            _ => instances.len() == ids.len() && instances.iter().all(|i| i.status == goal.text()),
        };
        if reached {
            progress.done(goal.text());
            return Ok(());
        }
        // A stopped instance with a reason will not start by itself.
        if goal == Goal::Running
            && let Some(failed) =
                instances.iter().find(|i| i.status == "Stopped" && !i.status_reason.is_empty())
        {
            progress.done("Stopped");
            return Err(Error::Failed(format!(
                "instance {} does not start: {}",
                failed.instance_id, failed.status_reason
            )));
        }
        let mut states = BTreeMap::new();
        for instance in &instances {
            *states.entry(instance.status.clone()).or_insert(0) += 1;
        }
        let reason = instances.iter().map(|i| &i.status_reason).find(|reason| !reason.is_empty());
        let said = summary(&states, reason);
        progress.set(&said);
        if progress.is_late() {
            progress.done(&said);
            return Err(Error::TimedOut(format!(
                "{name} not {} after {} s: {said}. `ecsctl instance show` and `ecsctl instance \
                 events` say more; --timeout waits longer",
                goal.text(),
                arguments.timeout
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn summary(states: &BTreeMap<String, usize>, reason: Option<&String>) -> String {
    let mut text = match states.len() {
        0 => "not listed".to_owned(),
        1 => states.keys().next().cloned().unwrap_or_default(),
        _ => states.iter().map(|(s, n)| format!("{n} {s}")).collect::<Vec<_>>().join(", "),
    };
    if let Some(reason) = reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_only_different_states() {
        let one = BTreeMap::from([("Starting".to_owned(), 3)]);
        assert_eq!(summary(&one, None), "Starting");
        let two = BTreeMap::from([("Pending".to_owned(), 1), ("Running".to_owned(), 2)]);
        assert_eq!(summary(&two, Some(&"no room".to_owned())), "1 Pending, 2 Running: no room");
    }
}
