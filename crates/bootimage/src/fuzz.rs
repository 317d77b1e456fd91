//! Entry points for fuzzers: any bytes in, no panic and no hang.

use std::time::Duration;

use crate::entries::{Location, Volumes, grub};
use crate::limits::Limits;
use crate::source::Extent;

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
    let disk = Extent::whole(Box::new(Vec::new()), limits());
    let volumes = Volumes { list: Vec::new(), disk };
    let at = Location { volume: 0, path: "/boot/grub/grub.cfg".to_owned() };
    let _ = grub::entries_of_text(&volumes, &at, &String::from_utf8_lossy(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_survived() {
        let text = include_bytes!("../tests/configurations/debian.cfg");
        let mut bytes = text.to_vec();
        for at in (0..bytes.len()).step_by(7) {
            bytes[at] ^= 1 << (at % 8);
            grub_configuration(&bytes[..at]);
            grub_configuration(&bytes);
        }
        disk(&bytes);
        disk(&[0; 4096]);
    }
}
