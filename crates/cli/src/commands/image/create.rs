//! `ecsctl image create`, `copy` and `modify`.

use super::{Context, wait::WaitArguments};
use crate::{
    client::client_token,
    error::{Error, Result},
};
use api::v1::{
    CopyImageRequest, CreateImageRequest, DiskDeviceMapping, ModifyImageAttributeRequest, Tag,
};
use clap::{ArgGroup, Args};
use serde::Serialize;

pub(super) const CREATE_EXAMPLES: &str = "Examples:
  ecsctl image create --instance i-1 --name golden --family web --wait
  ecsctl image create --snapshot s-1 --name golden
  ecsctl image create --disk snapshot=s-1 --disk snapshot=s-2,size=100 --disk size=50";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["snapshot", "instance", "disks"]))]
pub(crate) struct CreateArguments {
    /// Snapshot of a system disk
    #[arg(long, default_value = "", hide_default_value = true)]
    snapshot: String,
    /// Instance, of whose disks snapshots are taken
    #[arg(long, default_value = "", hide_default_value = true)]
    instance: String,
    /// snapshot=,size=GiB,type=system|data of one disk; several for more, one of them a system disk
    #[arg(long = "disk", value_parser = disk)]
    disks: Vec<DiskDeviceMapping>,
    /// Default: the image's id
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    family: String,
    #[arg(long = "image-version", default_value = "", hide_default_value = true)]
    version: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Debian, Ubuntu, ...; default: that of the image the disk was made from
    #[arg(long, default_value = "", hide_default_value = true)]
    platform: String,
    /// KEY=VALUE; several for more
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<Tag>,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    image: String,
    /// Default: the new image's id
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// KEY=VALUE; several for more
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<Tag>,
    /// Region of the copy; there is only the cloud's own
    #[arg(long, default_value = "", hide_default_value = true)]
    destination_region: String,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["name", "family", "version", "description"]))]
pub(crate) struct ModifyArguments {
    image: String,
    #[arg(long)]
    name: Option<String>,
    /// Empty: in no family
    #[arg(long)]
    family: Option<String>,
    #[arg(long = "image-version")]
    version: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
}

fn disk(text: &str) -> Result<DiskDeviceMapping, String> {
    let mut disk = DiskDeviceMapping::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("{part} is not of the form KEY=VALUE"))?;
        match key {
            "snapshot" => value.clone_into(&mut disk.snapshot_id),
            "type" => value.clone_into(&mut disk.r#type),
            "size" => {
                disk.size =
                    value.parse().map_err(|_| format!("size={value} is not a number of GiB"))?;
            }
            _ => return Err(format!("{key} is none of snapshot, size, type")),
        }
    }
    Ok(disk)
}

/// Waits for an image that was ordered, if that is wanted, and says what became of it.
async fn done(
    context: &Context,
    answer: &impl Serialize,
    id: &str,
    wait: &WaitArguments,
    token: &str,
) -> Result<()> {
    let ordered =
        |error: Error| error.ordered(format!("image {id} was ordered, client token {token}"));
    wait.until_available(context, id).await.map_err(ordered)?;
    let what = if wait.wait { "made" } else { "being made" };
    context.done(answer, &[id.to_owned()], &format!("image {id} {what}"));
    Ok(())
}

pub(super) async fn create(context: &Context, arguments: CreateArguments) -> Result<()> {
    let token = client_token(arguments.client_token);
    let request = CreateImageRequest {
        region_id: context.region.clone(),
        snapshot_id: arguments.snapshot,
        instance_id: arguments.instance,
        disk_device_mapping: arguments.disks,
        image_name: arguments.name,
        image_family: arguments.family,
        image_version: arguments.version,
        description: arguments.description,
        platform: arguments.platform,
        architecture: String::new(),
        client_token: token.clone(),
        tag: arguments.tags,
        dry_run: arguments.dry_run,
    };
    let answer = context.cloud.images().create_image(request).await?.into_inner();
    done(context, &answer, &answer.image_id, &arguments.wait, &token).await
}

pub(super) async fn copy(context: &Context, arguments: CopyArguments) -> Result<()> {
    let token = client_token(arguments.client_token);
    let request = CopyImageRequest {
        region_id: context.region.clone(),
        image_id: arguments.image,
        destination_region_id: arguments.destination_region,
        destination_image_name: arguments.name,
        destination_description: arguments.description,
        client_token: token.clone(),
        tag: arguments.tags,
        encrypted: false,
        dry_run: arguments.dry_run,
    };
    let answer = context.cloud.images().copy_image(request).await?.into_inner();
    done(context, &answer, &answer.image_id, &arguments.wait, &token).await
}

pub(super) async fn modify(context: &Context, arguments: ModifyArguments) -> Result<()> {
    let id = arguments.image;
    let request = ModifyImageAttributeRequest {
        region_id: context.region.clone(),
        image_id: id.clone(),
        image_name: arguments.name,
        image_family: arguments.family,
        description: arguments.description,
        image_version: arguments.version,
        dry_run: arguments.dry_run,
    };
    let answer = context.cloud.images().modify_image_attribute(request).await?.into_inner();
    context.done(&answer, std::slice::from_ref(&id), &format!("image {id} modified"));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_disk_is_read_from_its_text_and_a_wrong_key_is_named() {
        let disk = super::disk("snapshot=s-1,size=40,type=data").unwrap();
        assert_eq!(
            (disk.snapshot_id.as_str(), disk.size, disk.r#type.as_str()),
            ("s-1", 40, "data")
        );
        assert!(super::disk("snapsot=s-1").unwrap_err().contains("snapsot"));
        assert!(super::disk("size=big").unwrap_err().contains("GiB"));
    }
}
