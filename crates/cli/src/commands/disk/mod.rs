//! `ecsctl disk`.

mod change;
mod content;
mod create;
mod monitor;
mod wait;

use super::{Context, pages};
use crate::{
    error::{Error, Result},
    output::table::{self, Row},
};
use api::v1::{DescribeDisksRequest, Disk, Tag};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Creates a data disk
    #[command(after_help = create::EXAMPLES)]
    Create(create::CreateArguments),
    /// Attaches a disk to a running or stopped instance
    #[command(after_help = "Examples:\n  ecsctl disk attach d-1 i-1 --wait\n  \
        ecsctl disk attach d-1 i-1 --device /dev/xvdc")]
    Attach(change::AttachArguments),
    /// Detaches a disk; unmount it in the guest first
    #[command(after_help = "Example:\n  ecsctl disk detach d-1 --wait")]
    Detach(change::DetachArguments),
    /// Deletes disks that are attached nowhere
    #[command(after_help = "Example:\n  ecsctl disk delete d-1 d-2 --wait")]
    Delete(change::DeleteArguments),
    /// Lists disks
    #[command(after_help = "Examples:\n  ecsctl disk list --instance i-1 -o wide\n  \
        ecsctl disk list --status Available --tag env=test")]
    List(ListArguments),
    /// Shows all of one disk
    #[command(after_help = "Example:\n  ecsctl disk show d-1")]
    Show { id: String },
    /// Changes names and what becomes of a disk
    #[command(after_help = "Examples:\n  ecsctl disk modify d-1 --name data\n  \
        ecsctl disk modify d-1 --delete-with-instance false")]
    Modify(change::ModifyArguments),
    /// Gives a disk another category or performance level, also while it is in use
    #[command(after_help = "Examples:\n  ecsctl disk spec d-1 --performance-level PL2 --wait\n  \
        ecsctl disk spec d-1 --category cloud_auto")]
    Spec(change::SpecArguments),
    /// Grows a disk, also while it is in use; it never shrinks
    #[command(after_help = "Example:\n  ecsctl disk resize d-1 100 --online --wait\n\n\
        Then grow the partition and the file system in the guest, e.g. growpart and resize2fs.")]
    Resize(change::ResizeArguments),
    /// Gives a disk the content of one of its snapshots again; its instance must be stopped
    #[command(after_help = "Example:\n  ecsctl disk reset d-1 s-1 --wait")]
    Reset(content::ResetArguments),
    /// Makes a disk as it was at first: its image, its snapshot, or empty; its instance must be
    /// stopped
    #[command(after_help = "Example:\n  ecsctl disk reinit d-1 --wait")]
    Reinit(content::ReinitArguments),
    /// Gives a stopped instance a new system disk from an image; the present one is deleted
    #[command(after_help = "Example:\n  ecsctl disk replace-system i-1 m-2 --size 60 --wait")]
    ReplaceSystem(content::ReplaceArguments),
    /// Shows what a disk does at the moment, and how near it is to its level
    #[command(after_help = "Examples:\n  ecsctl disk monitor d-1\n  \
        ecsctl disk monitor d-1 --every 5")]
    Monitor(monitor::MonitorArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Ids; left out: all
    ids: Vec<String>,
    #[arg(long, default_value = "", hide_default_value = true)]
    instance: String,
    /// system or data
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    disk_type: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    category: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    performance_level: String,
    /// In_use, Available, Attaching, Detaching, Creating or ReIniting
    #[arg(long, default_value = "", hide_default_value = true)]
    status: String,
    /// * stands for anything
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// Only disks made from this snapshot
    #[arg(long, default_value = "", hide_default_value = true)]
    snapshot: String,
    /// Only disks under this snapshot policy
    #[arg(long, default_value = "", hide_default_value = true)]
    snapshot_policy: String,
    /// Only disks in this storage pool
    #[arg(long, default_value = "", hide_default_value = true)]
    pool: String,
    #[arg(long, value_name = "true|false")]
    delete_with_instance: Option<bool>,
    /// KEY=VALUE, or KEY= for any value; several for more
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<Tag>,
}

impl Row for Disk {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "TYPE", "CATEGORY", "LEVEL", "GIB", "STATUS", "INSTANCE", "DEVICE", "IMAGE",
        "IOPS", "MB/S", "HOST", "POOL", "SNAPSHOT", "REASON",
    ];
    const WIDE: usize = 7;
    fn id(&self) -> String {
        self.disk_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.disk_id.clone(),
            self.disk_name.clone(),
            self.r#type.clone(),
            self.category.clone(),
            self.performance_level.clone(),
            self.size.to_string(),
            self.status.clone(),
            self.instance_id.clone(),
            self.device.clone(),
            self.image_id.clone(),
            self.iops.to_string(),
            self.throughput.to_string(),
            self.host_id.clone(),
            self.storage_pool_id.clone(),
            self.source_snapshot_id.clone(),
            self.status_reason.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: DiskCommand) -> Result<()> {
    match command {
        DiskCommand::Create(arguments) => create::create(context, arguments).await,
        DiskCommand::Attach(arguments) => change::attach(context, arguments).await,
        DiskCommand::Detach(arguments) => change::detach(context, arguments).await,
        DiskCommand::Delete(arguments) => change::delete(context, arguments).await,
        DiskCommand::Modify(arguments) => change::modify(context, arguments).await,
        DiskCommand::Spec(arguments) => change::spec(context, arguments).await,
        DiskCommand::Resize(arguments) => change::resize(context, arguments).await,
        DiskCommand::Reset(arguments) => content::reset(context, arguments).await,
        DiskCommand::Reinit(arguments) => content::reinit(context, arguments).await,
        DiskCommand::ReplaceSystem(arguments) => content::replace(context, arguments).await,
        DiskCommand::Monitor(arguments) => monitor::monitor(context, arguments).await,
        DiskCommand::Show { id } => {
            table::print_one(context.format, &find(context, &id).await?);
            Ok(())
        }
        DiskCommand::List(arguments) => {
            let request = DescribeDisksRequest {
                disk_ids: arguments.ids,
                instance_id: arguments.instance,
                disk_type: arguments.disk_type,
                category: arguments.category,
                performance_level: arguments.performance_level,
                status: arguments.status,
                disk_name: arguments.name,
                zone_id: arguments.zone,
                snapshot_id: arguments.snapshot,
                auto_snapshot_policy_id: arguments.snapshot_policy,
                storage_pool_id: arguments.pool,
                delete_with_instance: arguments.delete_with_instance,
                tag: arguments.tags,
                ..Default::default()
            };
            table::print(context.format, &describe(context, request).await?);
            Ok(())
        }
    }
}

async fn describe(context: &Context, request: DescribeDisksRequest) -> Result<Vec<Disk>> {
    pages::all(async |page_number| {
        let request = DescribeDisksRequest {
            region_id: context.region.clone(),
            page_number,
            page_size: pages::PAGE_SIZE,
            ..request.clone()
        };
        let answer = context.cloud.disks().describe_disks(request).await?.into_inner();
        Ok((answer.disks, answer.total_count))
    })
    .await
}

async fn by_ids(context: &Context, ids: &[String]) -> Result<Vec<Disk>> {
    let request = DescribeDisksRequest { disk_ids: ids.to_vec(), ..Default::default() };
    describe(context, request).await
}

async fn find(context: &Context, id: &str) -> Result<Disk> {
    by_ids(context, &[id.to_owned()]).await?.into_iter().next().ok_or_else(|| {
        Error::NotFound(format!("there is no disk {id}; `ecsctl disk list` shows all"))
    })
}
