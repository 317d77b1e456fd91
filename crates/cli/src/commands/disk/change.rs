//! Changing where a disk is and what it is like.

use super::{
    Context, find,
    wait::{self, Goal, WaitArguments},
};
use crate::{
    client::client_token,
    error::{Error, Result},
};
use api::v1::{
    AttachDiskRequest, DeleteDiskRequest, DetachDiskRequest, ModifyDiskAttributeRequest,
    ModifyDiskSpecRequest, ResizeDiskRequest,
};
use clap::{ArgGroup, Args};

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    disk: String,
    instance: String,
    /// /dev/xvdb to /dev/xvdz; default: the first that is free
    #[arg(long, default_value = "", hide_default_value = true)]
    device: String,
    /// Whether it goes when the instance is deleted; default: as it is
    #[arg(long, value_name = "true|false")]
    delete_with_instance: Option<bool>,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct DetachArguments {
    disk: String,
    /// The instance it is at; default: whichever
    instance: Option<String>,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("attribute").required(true).multiple(true).args([
    "name", "description", "delete_with_instance", "delete_auto_snapshot", "bursting",
]))]
pub(crate) struct ModifyArguments {
    #[arg(required = true)]
    ids: Vec<String>,
    #[arg(long)]
    name: Option<String>,
    /// Empty: none
    #[arg(long)]
    description: Option<String>,
    /// Whether it goes when its instance is deleted
    #[arg(long, value_name = "true|false")]
    delete_with_instance: Option<bool>,
    /// Whether its automatic snapshots go with it
    #[arg(long, value_name = "true|false")]
    delete_auto_snapshot: Option<bool>,
    /// Whether it may burst, of cloud_auto
    #[arg(long, value_name = "true|false")]
    bursting: Option<bool>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("spec").required(true).multiple(true).args([
    "category", "performance_level", "provisioned_iops",
]))]
pub(crate) struct SpecArguments {
    id: String,
    /// cloud_essd, cloud_auto, cloud_essd_entry, cloud_ssd, cloud_efficiency or cloud
    #[arg(long, default_value = "", hide_default_value = true)]
    category: String,
    /// PL0 to PL3, of cloud_essd
    #[arg(long, default_value = "", hide_default_value = true)]
    performance_level: String,
    /// IOPS beyond the baseline, of cloud_auto
    #[arg(long)]
    provisioned_iops: Option<u64>,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ResizeArguments {
    id: String,
    /// New size in GiB
    size: u32,
    /// Refuse unless a running guest sees the new size at once
    #[arg(long)]
    online: bool,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    #[command(flatten)]
    wait: WaitArguments,
}

pub(super) async fn attach(context: &Context, arguments: AttachArguments) -> Result<()> {
    let AttachArguments { disk, instance, device, delete_with_instance, wait } = arguments;
    let request = AttachDiskRequest {
        disk_id: disk.clone(),
        instance_id: instance.clone(),
        device,
        delete_with_instance,
    };
    let answer = context.cloud.disks().attach_disk(request).await?.into_inner();
    let ids = [disk];
    wait::until(context, &ids, Goal::InUse, &wait).await?;
    let what = if wait.wait { "is attached" } else { "is being attached" };
    context.done(&answer, &ids, &format!("disk {} {what} to instance {instance}", ids[0]));
    Ok(())
}

pub(super) async fn detach(context: &Context, arguments: DetachArguments) -> Result<()> {
    let DetachArguments { disk, instance, wait } = arguments;
    let instance_id = match instance {
        Some(instance) => instance,
        None => match find(context, &disk).await?.instance_id {
            none if none.is_empty() => {
                return Err(Error::Failed(format!("disk {disk} is at no instance")));
            }
            instance => instance,
        },
    };
    let request = DetachDiskRequest {
        disk_id: disk.clone(),
        instance_id: instance_id.clone(),
        ..Default::default()
    };
    let answer = context.cloud.disks().detach_disk(request).await?.into_inner();
    let ids = [disk];
    wait::until(context, &ids, Goal::Available, &wait).await?;
    let what = if wait.wait { "is detached" } else { "is being detached" };
    context.done(&answer, &ids, &format!("disk {} {what} from instance {instance_id}", ids[0]));
    Ok(())
}

pub(super) async fn delete(context: &Context, arguments: DeleteArguments) -> Result<()> {
    let mut answers = Vec::new();
    for (index, id) in arguments.ids.iter().enumerate() {
        let request = DeleteDiskRequest { disk_id: id.clone() };
        let answer = context.cloud.disks().delete_disk(request).await;
        let answer = answer.map_err(|status| match arguments.ids[..index].join(", ") {
            none if none.is_empty() => Error::from(status),
            done => Error::from(status).ordered(format!("being deleted all the same: {done}")),
        })?;
        answers.push(answer.into_inner());
    }
    wait::until(context, &arguments.ids, Goal::Gone, &arguments.wait).await?;
    let what = if arguments.wait.wait { "deleted" } else { "being deleted" };
    context.done(&answers, &arguments.ids, &format!("disk {} {what}", arguments.ids.join(", ")));
    Ok(())
}

pub(super) async fn modify(context: &Context, arguments: ModifyArguments) -> Result<()> {
    let request = ModifyDiskAttributeRequest {
        region_id: context.region.clone(),
        disk_id: String::new(),
        disk_ids: arguments.ids.clone(),
        disk_name: arguments.name,
        description: arguments.description,
        delete_with_instance: arguments.delete_with_instance,
        delete_auto_snapshot: arguments.delete_auto_snapshot,
        bursting_enabled: arguments.bursting,
    };
    let answer = context.cloud.disks().modify_disk_attribute(request).await?.into_inner();
    context.done(&answer, &arguments.ids, &format!("disk {} modified", arguments.ids.join(", ")));
    Ok(())
}

pub(super) async fn spec(context: &Context, arguments: SpecArguments) -> Result<()> {
    let request = ModifyDiskSpecRequest {
        disk_id: arguments.id.clone(),
        disk_category: arguments.category,
        performance_level: arguments.performance_level,
        provisioned_iops: arguments.provisioned_iops,
        dry_run: arguments.dry_run,
    };
    let answer = context.cloud.disks().modify_disk_spec(request).await?.into_inner();
    let ids = [arguments.id];
    wait::until(context, &ids, Goal::InEffect, &arguments.wait).await?;
    let disk = find(context, &ids[0]).await?;
    let kind = format!("{} {}", disk.category, disk.performance_level);
    let sentence = format!(
        "disk {} is {} now: {} IOPS, {} MB/s",
        ids[0],
        kind.trim_end(),
        disk.iops,
        disk.throughput
    );
    context.done(&answer, &ids, &sentence);
    Ok(())
}

pub(super) async fn resize(context: &Context, arguments: ResizeArguments) -> Result<()> {
    let request = ResizeDiskRequest {
        disk_id: arguments.id.clone(),
        new_size: arguments.size,
        r#type: if arguments.online { "online" } else { "offline" }.to_owned(),
        client_token: client_token(arguments.client_token),
    };
    let answer = context.cloud.disks().resize_disk(request).await?.into_inner();
    let ids = [arguments.id];
    wait::until(context, &ids, Goal::InEffect, &arguments.wait).await?;
    let what = if arguments.wait.wait { "has" } else { "grows to" };
    context.done(&answer, &ids, &format!("disk {} {what} {} GiB", ids[0], arguments.size));
    Ok(())
}
