//! New disks.

use super::{
    Context,
    wait::{self, Goal, WaitArguments},
};
use crate::{client::client_token, error::Result};
use api::v1::{CreateDiskRequest, Tag};
use clap::{ArgGroup, Args};

pub(super) const EXAMPLES: &str = "Examples:
  ecsctl disk create --zone cn-lab-1a --size 100
  ecsctl disk create --instance i-1 --size 500 --performance-level PL2 --name data --wait
  ecsctl disk create --zone cn-lab-1a --snapshot s-1
  ecsctl disk create --pool pool-1 --size 100";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").required(true).multiple(true).args(["zone", "instance", "pool"]))]
pub(crate) struct CreateArguments {
    /// Zone it is for; --instance says it too
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// Instance to attach it to
    #[arg(long, default_value = "", hide_default_value = true)]
    instance: String,
    /// Id or name of the storage pool it is to be in; left out: chosen when it is first attached
    #[arg(long, default_value = "", hide_default_value = true)]
    pool: String,
    /// GiB; with --snapshot at least the snapshot's, which is the default
    #[arg(
        long,
        required_unless_present = "snapshot",
        default_value_t = 0,
        hide_default_value = true
    )]
    size: u32,
    /// Snapshot whose content it begins with
    #[arg(long, default_value = "", hide_default_value = true)]
    snapshot: String,
    /// cloud_essd (default), cloud_auto, cloud_essd_entry, cloud_ssd, cloud_efficiency or cloud
    #[arg(long, default_value = "", hide_default_value = true)]
    category: String,
    /// PL0 to PL3, of cloud_essd
    #[arg(long, default_value = "", hide_default_value = true)]
    performance_level: String,
    /// IOPS beyond the baseline, of cloud_auto
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    provisioned_iops: u64,
    /// May burst, of cloud_auto
    #[arg(long)]
    bursting: bool,
    /// Encrypted at rest; one made from an encrypted snapshot is in any case
    #[arg(long)]
    encrypted: bool,
    /// Master key of an encrypted disk; left out: the service's own
    #[arg(long, default_value = "", hide_default_value = true, requires = "encrypted")]
    kms_key_id: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// KEY=VALUE; several for more
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<Tag>,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    #[command(flatten)]
    wait: WaitArguments,
}

pub(super) async fn create(context: &Context, arguments: CreateArguments) -> Result<()> {
    let token = client_token(arguments.client_token);
    let goal = if arguments.instance.is_empty() { Goal::Available } else { Goal::InUse };
    let request = CreateDiskRequest {
        region_id: context.region.clone(),
        zone_id: arguments.zone,
        disk_category: arguments.category,
        performance_level: arguments.performance_level,
        provisioned_iops: arguments.provisioned_iops,
        bursting_enabled: arguments.bursting,
        encrypted: arguments.encrypted,
        kms_key_id: arguments.kms_key_id,
        size: arguments.size,
        disk_name: arguments.name,
        description: arguments.description,
        client_token: token.clone(),
        instance_id: arguments.instance,
        snapshot_id: arguments.snapshot,
        storage_pool_id: arguments.pool,
        tag: arguments.tags,
        ..Default::default()
    };
    let answer = context.cloud.disks().create_disk(request).await?.into_inner();
    let ids = [answer.disk_id.clone()];
    wait::until(context, &ids, goal, &arguments.wait).await.map_err(|error| {
        error.ordered(format!(
            "disk {} was created, client token {token}; `ecsctl disk show` tells how it is",
            ids[0]
        ))
    })?;
    context.done(&answer, &ids, &format!("disk {} created", ids[0]));
    Ok(())
}
