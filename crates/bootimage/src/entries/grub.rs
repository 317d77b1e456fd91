//! GRUB: enough of its script language for what `grub-mkconfig` writes, interpreted with bounds.
//! Nothing is executed: commands set variables, look for files, and name a kernel.

mod environment;
mod machine;
mod menu;
mod script;

use super::{Entry, Location, Volumes};
use crate::error::Error;

/// Where distributions keep it: on a root filesystem, on a separate `/boot`, on an EFI system
/// partition.
const CONFIGS: &[&str] = &[
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/grub/grub.cfg",
    "/grub2/grub.cfg",
    "/EFI/debian/grub.cfg",
    "/EFI/ubuntu/grub.cfg",
    "/EFI/fedora/grub.cfg",
    "/EFI/almalinux/grub.cfg",
    "/EFI/rocky/grub.cfg",
    "/EFI/centos/grub.cfg",
    "/EFI/redhat/grub.cfg",
    "/EFI/alinux/grub.cfg",
    "/EFI/BOOT/grub.cfg",
];

/// Configuration files on a volume.
pub(crate) fn configs(volumes: &Volumes, volume: usize) -> Result<Vec<Location>, Error> {
    let mut found = Vec::new();
    for path in CONFIGS {
        let at = Location { volume, path: (*path).to_owned() };
        if volumes.is_file(&at)? {
            found.push(at);
        }
    }
    Ok(found)
}

/// The entries of a configuration with a kernel, the default one first.
pub(crate) fn entries(volumes: &Volumes, config: &Location) -> Result<Vec<Entry>, Error> {
    let mut machine = machine::Machine::new(volumes, config);
    machine.run_file(config)?;
    menu::entries(&mut machine)
}

/// The entries of a configuration that is not on a disk, whose files need not exist.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn entries_of_text(
    volumes: &Volumes,
    config: &Location,
    text: &str,
) -> Result<Vec<Entry>, Error> {
    let mut machine = machine::Machine::new(volumes, config);
    machine.run_text(text)?;
    menu::entries(&mut machine)
}
