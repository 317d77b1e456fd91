//! Whether a file is a kernel.

use crate::error::Error;

/// Bytes [`check`] wants.
pub(crate) const HEAD: u64 = 4096;

/// Looks at the start of a kernel: an x86 bzImage with a 64-bit entry point
/// (Documentation/arch/x86/boot.rst), or an x86-64 ELF.
pub(crate) fn check(path: &str, size: u64, head: &[u8]) -> Result<(), Error> {
    let bad = |why| Err(Error::BadKernel { path: path.to_owned(), why });
    let le16 = |at: usize| match head.get(at..at + 2) {
        Some(bytes) => u16::from_le_bytes([bytes[0], bytes[1]]),
        None => 0,
    };
    if head.starts_with(b"\x7fELF") {
        return match (head.get(4), le16(18)) {
            (Some(2), 62) => Ok(()),
            _ => bad("it is an ELF file for another machine than x86-64"),
        };
    }
    if head.get(0x202..0x206) == Some(b"HdrS") && le16(0x1fe) == 0xaa55 {
        if le16(0x206) < 0x020c {
            return bad("its boot protocol is older than 2.12 (Linux 3.8)");
        }
        if le16(0x236) & 1 == 0 {
            return bad("it has no 64-bit entry point");
        }
        let sectors = head.get(0x1f1).map_or(0, |&sectors| u64::from(sectors));
        if size <= (sectors + 1) * 512 {
            return bad("it is cut off after its boot sectors");
        }
        return Ok(());
    }
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        return bad("it is an arm64 kernel");
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return bad("it is compressed with gzip as a whole, which x86 kernels never are");
    }
    if size == 0 {
        return bad("it is empty");
    }
    bad("it is neither a bzImage nor an ELF file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(head: &[u8]) -> String {
        check("/boot/vmlinuz", head.len() as u64, head).expect_err("no kernel").to_string()
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        assert!(why(b"").contains("empty"));
        assert!(why(b"#!/bin/sh\n").contains("neither"));
        assert!(why(&[0x1f, 0x8b, 8, 0]).contains("gzip"));
        let mut arm = [0; 64];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert!(why(&arm).contains("arm64"));
        let mut elf = [0; 64];
        elf[..5].copy_from_slice(b"\x7fELF\x01");
        assert!(why(&elf).contains("another machine"));
    }

    #[test]
    fn a_kernel_without_64_bit_entry_is_refused() {
        let mut head = vec![0; 8192];
        head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        assert!(why(&head).contains("64-bit"));
        head[0x236] = 1;
        assert!(check("/boot/vmlinuz", 8192, &head).is_ok());
        head[0x1f1] = 40;
        assert!(why(&head).contains("cut off"));
        head[0x206] = 0x0b;
        assert!(why(&head).contains("2.12"));
    }
}
