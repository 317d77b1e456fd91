//! Other content for a disk or an instance.

use super::{
    Context,
    wait::{self, Goal, WaitArguments},
};
use crate::{client::client_token, error::Result};
use api::v1::{ReInitDiskRequest, ReplaceSystemDiskRequest, ResetDiskRequest};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct ResetArguments {
    disk: String,
    /// One of the disk's snapshots
    snapshot: String,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ReinitArguments {
    disk: String,
    /// Start its instance afterwards
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArguments {
    instance: String,
    image: String,
    /// GiB; default: the present disk's, at least the image's
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    size: u32,
    /// Default: the instance's present one
    #[arg(long, default_value = "", hide_default_value = true)]
    key_pair: String,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    #[command(flatten)]
    wait: WaitArguments,
}

pub(super) async fn reset(context: &Context, arguments: ResetArguments) -> Result<()> {
    let ResetArguments { disk, snapshot, dry_run, wait } = arguments;
    let request =
        ResetDiskRequest { disk_id: disk.clone(), snapshot_id: snapshot.clone(), dry_run };
    let answer = context.cloud.disks().reset_disk(request).await?.into_inner();
    let ids = [disk];
    wait::until(context, &ids, Goal::InEffect, &wait).await?;
    let what = if wait.wait { "has" } else { "is being given" };
    context.done(&answer, &ids, &format!("disk {} {what} the content of {snapshot}", ids[0]));
    Ok(())
}

pub(super) async fn reinit(context: &Context, arguments: ReinitArguments) -> Result<()> {
    let ReinitArguments { disk, start, wait } = arguments;
    let request = ReInitDiskRequest { disk_id: disk.clone(), auto_start_instance: start };
    let answer = context.cloud.disks().re_init_disk(request).await?.into_inner();
    let ids = [disk];
    wait::until(context, &ids, Goal::InEffect, &wait).await?;
    let what = if wait.wait { "is as it was at first" } else { "is being made anew" };
    context.done(&answer, &ids, &format!("disk {} {what}", ids[0]));
    Ok(())
}

pub(super) async fn replace(context: &Context, arguments: ReplaceArguments) -> Result<()> {
    let request = ReplaceSystemDiskRequest {
        instance_id: arguments.instance.clone(),
        image_id: arguments.image,
        size: arguments.size,
        key_pair_name: arguments.key_pair,
        password: String::new(),
        client_token: client_token(arguments.client_token),
    };
    let answer = context.cloud.disks().replace_system_disk(request).await?.into_inner();
    let ids = [answer.disk_id.clone()];
    wait::until(context, &ids, Goal::InUse, &arguments.wait).await?;
    let sentence = format!("disk {} is the system disk of {} now", ids[0], arguments.instance);
    context.done(&answer, &ids, &sentence);
    Ok(())
}
