//! `ecsctl snapshot-policy`.

use super::{Context, pages};
use crate::{
    error::Result,
    output::table::{self, Row},
};
use api::v1::{
    ApplyAutoSnapshotPolicyRequest, AutoSnapshotPolicy, CancelAutoSnapshotPolicyRequest,
    CreateAutoSnapshotPolicyRequest, DeleteAutoSnapshotPolicyRequest,
    DescribeAutoSnapshotPolicyExRequest, ModifyAutoSnapshotPolicyExRequest,
};
use clap::{ArgGroup, Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotPolicyCommand {
    /// Creates a policy; apply it to disks then
    #[command(after_help = "Examples:\n  \
        ecsctl snapshot-policy create --name nightly --hours 1 --retention-days 7\n  \
        ecsctl snapshot-policy create --hours 1,13 --weekdays 1,2,3,4,5")]
    Create(CreateArguments),
    /// Lists policies
    #[command(after_help = "Example:\n  ecsctl snapshot-policy list")]
    List {
        /// * stands for anything
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Changes a policy for all its disks
    #[command(after_help = "Example:\n  ecsctl snapshot-policy modify sp-1 --hours 2,14")]
    Modify(ModifyArguments),
    /// Puts disks under a policy, instead of the one they have
    #[command(after_help = "Example:\n  ecsctl snapshot-policy apply sp-1 d-1 d-2")]
    Apply {
        policy: String,
        #[arg(required = true)]
        disks: Vec<String>,
    },
    /// Takes disks from under their policies; their snapshots stay
    #[command(after_help = "Example:\n  ecsctl snapshot-policy cancel d-1 d-2")]
    Cancel {
        #[arg(required = true)]
        disks: Vec<String>,
    },
    /// Deletes a policy; its snapshots stay
    #[command(after_help = "Example:\n  ecsctl snapshot-policy delete sp-1")]
    Delete { id: String },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Hours of the day, UTC, with commas: 0 to 23
    #[arg(long, required = true, value_delimiter = ',')]
    hours: Vec<u32>,
    /// Days of the week, with commas: 1 is Monday
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5,6,7")]
    weekdays: Vec<u32>,
    /// Days a snapshot is kept; -1: for ever
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    retention_days: i32,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("attribute").required(true).multiple(true).args([
    "name", "hours", "weekdays", "retention_days",
]))]
pub(crate) struct ModifyArguments {
    id: String,
    /// Empty: none
    #[arg(long)]
    name: Option<String>,
    /// Hours of the day, UTC, with commas: 0 to 23
    #[arg(long, value_delimiter = ',')]
    hours: Vec<u32>,
    /// Days of the week, with commas: 1 is Monday
    #[arg(long, value_delimiter = ',')]
    weekdays: Vec<u32>,
    /// Days a new snapshot is kept; -1: for ever
    #[arg(long, allow_negative_numbers = true)]
    retention_days: Option<i32>,
}

impl Row for AutoSnapshotPolicy {
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "HOURS", "WEEKDAYS", "DAYS KEPT", "DISKS", "CREATED"];
    fn id(&self) -> String {
        self.auto_snapshot_policy_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let list =
            |numbers: &[u32]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        vec![
            self.auto_snapshot_policy_id.clone(),
            self.auto_snapshot_policy_name.clone(),
            list(&self.time_points),
            list(&self.repeat_weekdays),
            if self.retention_days == -1 { String::new() } else { self.retention_days.to_string() },
            self.disk_nums.to_string(),
            self.creation_time.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: SnapshotPolicyCommand) -> Result<()> {
    let mut service = context.cloud.snapshots();
    let region_id = context.region.clone();
    match command {
        SnapshotPolicyCommand::Create(arguments) => {
            let request = CreateAutoSnapshotPolicyRequest {
                region_id,
                auto_snapshot_policy_name: arguments.name,
                time_points: arguments.hours,
                repeat_weekdays: arguments.weekdays,
                retention_days: arguments.retention_days,
            };
            let answer = service.create_auto_snapshot_policy(request).await?.into_inner();
            let id = answer.auto_snapshot_policy_id.clone();
            let sentence = format!(
                "snapshot policy {id} created; `ecsctl snapshot-policy apply {id} DISK` puts disks \
                 under it"
            );
            context.done(&answer, &[id], &sentence);
        }
        SnapshotPolicyCommand::List { name } => {
            let policies = pages::all(async |page_number| {
                let request = DescribeAutoSnapshotPolicyExRequest {
                    region_id: region_id.clone(),
                    auto_snapshot_policy_name: name.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    ..Default::default()
                };
                let mut service = context.cloud.snapshots();
                let answer = service.describe_auto_snapshot_policy_ex(request).await?.into_inner();
                Ok((answer.auto_snapshot_policies, answer.total_count))
            });
            table::print(context.format, &policies.await?);
        }
        SnapshotPolicyCommand::Modify(arguments) => {
            let id = arguments.id;
            let request = ModifyAutoSnapshotPolicyExRequest {
                region_id,
                auto_snapshot_policy_id: id.clone(),
                auto_snapshot_policy_name: arguments.name,
                time_points: arguments.hours,
                repeat_weekdays: arguments.weekdays,
                retention_days: arguments.retention_days,
            };
            let answer = service.modify_auto_snapshot_policy_ex(request).await?.into_inner();
            let sentence = format!("snapshot policy {id} modified");
            context.done(&answer, &[id], &sentence);
        }
        SnapshotPolicyCommand::Apply { policy, disks } => {
            let request = ApplyAutoSnapshotPolicyRequest {
                region_id,
                auto_snapshot_policy_id: policy.clone(),
                disk_ids: disks.clone(),
            };
            let answer = service.apply_auto_snapshot_policy(request).await?.into_inner();
            let sentence = format!("disk {} is under policy {policy} now", disks.join(", "));
            context.done(&answer, &disks, &sentence);
        }
        SnapshotPolicyCommand::Cancel { disks } => {
            let request = CancelAutoSnapshotPolicyRequest { region_id, disk_ids: disks.clone() };
            let answer = service.cancel_auto_snapshot_policy(request).await?.into_inner();
            context.done(&answer, &disks, &format!("disk {} is under no policy", disks.join(", ")));
        }
        SnapshotPolicyCommand::Delete { id } => {
            let request =
                DeleteAutoSnapshotPolicyRequest { region_id, auto_snapshot_policy_id: id.clone() };
            let answer = service.delete_auto_snapshot_policy(request).await?.into_inner();
            let sentence = format!("snapshot policy {id} deleted");
            context.done(&answer, &[id], &sentence);
        }
    }
    Ok(())
}
