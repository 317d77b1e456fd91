//! Images: which can be used for what.

use crate::ecs_error::{image_not_found, refuse};
use store::{ImageRecord, Refusal};

/// Its content is there.
pub(crate) const AVAILABLE: &str = "Available";
/// Its content is being taken in or made.
pub(crate) const CREATING: &str = "Creating";
/// Gone for people; its file stays for the disks that lie on it.
pub(crate) const DELETED: &str = "Deleted";

/// The image, if it is there for people.
///
/// # Errors
/// `InvalidImageId.NotFound`.
pub(crate) fn existing<'a>(
    image: Option<&'a ImageRecord>,
    image_id: &str,
) -> Result<&'a ImageRecord, Refusal> {
    image.filter(|image| image.status != DELETED).ok_or_else(|| image_not_found(image_id))
}

/// The image a system disk for an instance type can be made from.
///
/// # Errors
/// `InvalidImageId.NotFound`, `OperationDenied.ImageNotValid`, `ImageNotSupportInstanceType`.
pub(crate) fn bootable<'a>(
    image: Option<&'a ImageRecord>,
    image_id: &str,
    instance_type: &str,
) -> Result<&'a ImageRecord, Refusal> {
    let image = existing(image, image_id)?;
    let image_id = &image.image_id;
    if image.status != AVAILABLE {
        let next = if image.status == CREATING { "wait for it" } else { "make it again" };
        return Err(refuse(
            403,
            "OperationDenied.ImageNotValid",
            format!("image {image_id} is {}; {next}, or use another", image.status),
        ));
    }
    let architecture = match catalog::instance_type(instance_type) {
        Some(kind) if kind.architecture == catalog::Architecture::Arm => "arm64",
        _ => "x86_64",
    };
    if image.architecture != architecture {
        return Err(refuse(
            403,
            "ImageNotSupportInstanceType",
            format!(
                "image {image_id} is for {}, {instance_type} needs {architecture}",
                image.architecture
            ),
        ));
    }
    Ok(image)
}
