//! Entry points for fuzzers: any bytes in, no panic and no hang.

use std::time::Duration;

use crate::entries::{Location, Volumes, grub};
use crate::limits::Limits;

fn limits() -> Limits {
    Limits {
        read_bytes: 64 << 20,
        reads: 100_000,
        initrd_bytes: 8 << 20,
        time: Duration::from_secs(5),
        ..Limits::default()
    }
}

/// A whole disk.
pub fn disk(bytes: &[u8]) {
    if let Ok(found) = crate::find(Box::new(bytes.to_vec()), limits()) {
        let _ = found.write_kernel(&mut std::io::sink());
        let _ = found.write_initrd(&mut std::io::sink());
    }
}

/// A GRUB configuration, on a disk without files.
pub fn grub_configuration(bytes: &[u8]) {
    let volumes = Volumes { list: Vec::new(), config_bytes: limits().config_bytes };
    let at = Location { volume: 0, path: "/boot/grub/grub.cfg".to_owned() };
    let _ = grub::entries_of_text(&volumes, &at, &String::from_utf8_lossy(bytes));
}
