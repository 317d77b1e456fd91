//! `ecsctl snapshot`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::{Error, Result},
    output::{
        progress::Progress,
        table::{self, Row},
    },
};
use api::v1::{
    CreateSnapshotRequest, DeleteSnapshotRequest, DescribeSnapshotsRequest, Snapshot, Tag,
};
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Takes a snapshot of a disk, also while a guest writes to it
    #[command(
        after_help = "Examples:\n  ecsctl snapshot create d-1 --name before-upgrade --wait\n  \
        ecsctl snapshot create d-1 --retention-days 7"
    )]
    Create(CreateArguments),
    /// Lists snapshots
    #[command(after_help = "Examples:\n  ecsctl snapshot list --disk d-1 -o wide\n  \
        ecsctl snapshot list --type auto")]
    List(ListArguments),
    /// Shows all of one snapshot
    #[command(after_help = "Example:\n  ecsctl snapshot show s-1")]
    Show { id: String },
    /// Deletes snapshots; what later snapshots and disks need of them stays with these
    #[command(after_help = "Example:\n  ecsctl snapshot delete s-1 s-2 --wait")]
    Delete(DeleteArguments),
}

#[derive(Debug, Args)]
struct WaitArguments {
    /// Come back only when it is so
    #[arg(long)]
    wait: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 300, requires = "wait")]
    timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    disk: String,
    /// Not beginning with auto
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Days after which it goes; left out: never
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    retention_days: u32,
    /// KEY=VALUE; several for more
    #[arg(long = "tag", value_parser = super::tag)]
    tags: Vec<Tag>,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Ids; left out: all
    ids: Vec<String>,
    #[arg(long, default_value = "", hide_default_value = true)]
    disk: String,
    /// Of the disks that this instance has now
    #[arg(long, default_value = "", hide_default_value = true)]
    instance: String,
    /// * stands for anything
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// user or auto
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    snapshot_type: String,
    /// progressing, accomplished or failed
    #[arg(long, default_value = "", hide_default_value = true)]
    status: String,
    /// KEY=VALUE, or KEY= for any value; several for more
    #[arg(long = "tag", value_parser = super::tag)]
    tags: Vec<Tag>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Also if disks were made from them; the disks keep their content
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

impl Row for Snapshot {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "DISK", "GIB", "STATUS", "MIB", "TYPE", "CREATED", "DAYS", "USAGE", "TAKEN",
        "HOST", "REASON",
    ];
    const WIDE: usize = 5;
    fn id(&self) -> String {
        self.snapshot_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.snapshot_id.clone(),
            self.snapshot_name.clone(),
            self.source_disk_id.clone(),
            self.source_disk_size.to_string(),
            self.status.clone(),
            (self.size_in_bytes >> 20).to_string(),
            self.snapshot_type.clone(),
            self.creation_time.clone(),
            if self.retention_days == 0 { String::new() } else { self.retention_days.to_string() },
            self.usage.clone(),
            self.taken_time.clone(),
            self.host_id.clone(),
            self.status_reason.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Create(arguments) => create(context, arguments).await,
        SnapshotCommand::Delete(arguments) => delete(context, arguments).await,
        SnapshotCommand::Show { id } => {
            let found = by_ids(context, std::slice::from_ref(&id)).await?.into_iter().next();
            let snapshot = found.ok_or_else(|| {
                Error::NotFound(format!(
                    "there is no snapshot {id}; `ecsctl snapshot list` shows all"
                ))
            })?;
            table::print_one(context.format, &snapshot);
            Ok(())
        }
        SnapshotCommand::List(arguments) => {
            let request = DescribeSnapshotsRequest {
                snapshot_ids: arguments.ids,
                disk_id: arguments.disk,
                instance_id: arguments.instance,
                snapshot_name: arguments.name,
                snapshot_type: arguments.snapshot_type,
                status: arguments.status,
                tag: arguments.tags,
                ..Default::default()
            };
            table::print(context.format, &describe(context, request).await?);
            Ok(())
        }
    }
}

async fn describe(context: &Context, request: DescribeSnapshotsRequest) -> Result<Vec<Snapshot>> {
    pages::all(async |page_number| {
        let request = DescribeSnapshotsRequest {
            region_id: context.region.clone(),
            page_number,
            page_size: pages::PAGE_SIZE,
            ..request.clone()
        };
        let answer = context.cloud.snapshots().describe_snapshots(request).await?.into_inner();
        Ok((answer.snapshots, answer.total_count))
    })
    .await
}

async fn by_ids(context: &Context, ids: &[String]) -> Result<Vec<Snapshot>> {
    let request = DescribeSnapshotsRequest { snapshot_ids: ids.to_vec(), ..Default::default() };
    describe(context, request).await
}

async fn create(context: &Context, arguments: CreateArguments) -> Result<()> {
    let token = client_token(arguments.client_token);
    let request = CreateSnapshotRequest {
        disk_id: arguments.disk,
        snapshot_name: arguments.name,
        description: arguments.description,
        retention_days: arguments.retention_days,
        client_token: token.clone(),
        tag: arguments.tags,
    };
    let answer = context.cloud.snapshots().create_snapshot(request).await?.into_inner();
    let ids = [answer.snapshot_id.clone()];
    wait(context, &ids, false, &arguments.wait).await.map_err(|error| {
        error.ordered(format!("snapshot {} was ordered, client token {token}", ids[0]))
    })?;
    let what = if arguments.wait.wait { "taken" } else { "being taken" };
    context.done(&answer, &ids, &format!("snapshot {} {what}", ids[0]));
    Ok(())
}

async fn delete(context: &Context, arguments: DeleteArguments) -> Result<()> {
    let mut answers = Vec::new();
    for (index, id) in arguments.ids.iter().enumerate() {
        let request = DeleteSnapshotRequest { snapshot_id: id.clone(), force: arguments.force };
        let answer = context.cloud.snapshots().delete_snapshot(request).await;
        let answer = answer.map_err(|status| match arguments.ids[..index].join(", ") {
            none if none.is_empty() => Error::from(status),
            done => Error::from(status).ordered(format!("being deleted all the same: {done}")),
        })?;
        answers.push(answer.into_inner());
    }
    wait(context, &arguments.ids, true, &arguments.wait).await?;
    let what = if arguments.wait.wait { "deleted" } else { "being deleted" };
    let sentence = format!("snapshot {} {what}", arguments.ids.join(", "));
    context.done(&answers, &arguments.ids, &sentence);
    Ok(())
}

/// Waits until all are taken, or gone. A cloud that is away meanwhile is asked again until the time
/// is up.
async fn wait(
    context: &Context,
    ids: &[String],
    gone: bool,
    arguments: &WaitArguments,
) -> Result<()> {
    if !arguments.wait {
        return Ok(());
    }
    let goal = if gone { "deleted" } else { "accomplished" };
    let name = format!("snapshot {}", ids.join(", "));
    let progress = Progress::start(&name, Duration::from_secs(arguments.timeout));
    loop {
        let snapshots = match by_ids(context, ids).await {
            Ok(snapshots) => snapshots,
            Err(error) if error.is_transient() && !progress.is_late() => {
                progress.set(&format!("the cloud does not answer ({error}); asking again"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let taken = snapshots.len() == ids.len() && snapshots.iter().all(|s| s.status == goal);
        if if gone { snapshots.is_empty() } else { taken } {
            progress.done(goal);
            return Ok(());
        }
        let said = match snapshots.first() {
            None => "not listed".to_owned(),
            Some(s) if s.status_reason.is_empty() => s.status.clone(),
            Some(s) => format!("{}: {}", s.status, s.status_reason),
        };
        if !gone && snapshots.iter().any(|snapshot| snapshot.status == "failed") {
            progress.done("failed");
            return Err(Error::Failed(format!("{name} cannot be taken: {said}")));
        }
        progress.set(&said);
        if progress.is_late() {
            progress.done(&said);
            return Err(Error::TimedOut(format!(
                "{name} not {goal} after {} s: {said}. `ecsctl snapshot show` says more; --timeout \
                 waits longer",
                arguments.timeout
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
