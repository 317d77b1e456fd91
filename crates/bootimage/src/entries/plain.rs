//! Images without a boot loader's configuration: the kernel a package installed, by its name.

use super::{Entry, Location, Volumes, version};
use crate::error::Error;

/// Where Debian and Ubuntu link the newest kernel.
const LINKS: &[(&str, &str)] =
    &[("/vmlinuz", "/initrd.img"), ("/boot/vmlinuz", "/boot/initrd.img")];

const KERNEL_NAMES: &[&str] = &["vmlinuz", "bzImage", "kernel", "linux", "vmlinux"];

/// Kernels of a volume, the newest first.
pub(crate) fn entries(volumes: &Volumes, volume: usize) -> Result<Vec<Entry>, Error> {
    let options = options(volumes, volume)?;
    let entry = |kernel: Location, initrds: Vec<Location>| Entry {
        title: kernel.path.clone(),
        kernel,
        initrds,
        options: options.clone(),
        config: "the files in /boot".to_owned(),
    };
    let mut found = Vec::new();
    for (kernel, initrd) in LINKS {
        let kernel = Location { volume, path: (*kernel).to_owned() };
        if volumes.is_file(&kernel)? {
            let initrd = Location { volume, path: (*initrd).to_owned() };
            let initrds = if volumes.is_file(&initrd)? { vec![initrd] } else { Vec::new() };
            found.push(entry(kernel, initrds));
        }
    }
    for directory in ["/boot", ""] {
        let names = volumes.names(volume, if directory.is_empty() { "/" } else { directory })?;
        let mut kernels: Vec<(&str, &str)> = names
            .iter()
            .filter_map(|name| {
                KERNEL_NAMES.iter().find_map(|prefix| {
                    let version = name.strip_prefix(prefix)?.strip_prefix('-')?;
                    (!version.contains("rescue")).then_some((version, name.as_str()))
                })
            })
            .collect();
        kernels.sort_by(|(a, _), (b, _)| version::compare(b, a));
        for (version, name) in kernels.into_iter().take(64) {
            let kernel = Location { volume, path: format!("{directory}/{name}") };
            if !volumes.is_file(&kernel)? {
                continue;
            }
            let initrd = [
                format!("initrd.img-{version}"),
                format!("initramfs-{version}.img"),
                format!("initrd-{version}"),
                format!("initramfs-{version}"),
            ]
            .into_iter()
            .find(|initrd| names.contains(initrd));
            let initrds = initrd
                .map(|name| Location { volume, path: format!("{directory}/{name}") })
                .into_iter()
                .collect();
            found.push(entry(kernel, initrds));
        }
    }
    Ok(found)
}

/// What the image wants on the command line.
fn options(volumes: &Volumes, volume: usize) -> Result<String, Error> {
    let at = |path: &str| Location { volume, path: path.to_owned() };
    if let Some(text) = volumes.text(&at("/etc/kernel/cmdline"))? {
        return Ok(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let mut options = vec!["ro".to_owned()];
    if let Some(text) = volumes.text(&at("/etc/default/grub"))? {
        for name in ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"] {
            let value = text.lines().rev().find_map(|line| {
                Some(line.trim().strip_prefix(name)?.strip_prefix('=')?.trim().to_owned())
            });
            // Shell expressions are not for this program to evaluate.
            if let Some(value) = value.filter(|value| !value.contains(['$', '`'])) {
                let value = value.trim_matches(['"', '\'']);
                options.extend(value.split_whitespace().map(str::to_owned));
            }
        }
    }
    Ok(options.join(" "))
}
