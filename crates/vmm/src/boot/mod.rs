//! Loads the kernel and the initrd straight into guest memory and tells the kernel where all is.

mod bzimage;
mod e820;
mod initrd;
mod payload;
mod pvh;
mod reset_vector;
#[cfg(test)]
mod tests;
mod vmlinux;
#[cfg(test)]
mod vmlinux_tests;

pub use e820::{E820_RAM, E820_RESERVED, MemoryMapEntry, memory_map};
pub use reset_vector::write_reset_vector;

use crate::{layout, memory::GuestMemory};
use linux_loader::loader::KernelLoader as _;
use std::{fs::File, io};
use vm_memory::{Bytes, GuestAddress};

/// Why a kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Neither format.
    #[error(
        "the kernel is neither a bzImage ({bzimage}) nor an ELF file ({elf}); \
         give a stock x86-64 kernel"
    )]
    UnknownFormat {
        /// Why it is no bzImage.
        bzimage: String,
        /// Why it is no ELF file.
        elf: String,
    },
    /// A bzImage without 64-bit entry.
    #[error("the kernel has no 64-bit entry point; give one built for x86-64")]
    Not64Bit,
    /// An ELF file without PVH note.
    #[error("the kernel is an ELF file without a PVH note; build it with CONFIG_PVH=y")]
    NoPvhNote,
    /// The kernel does not fit.
    #[error("the kernel needs {needed} bytes of memory at {address:#x}; the instance is too small")]
    KernelTooBig {
        /// Where.
        address: u64,
        /// How much.
        needed: u64,
    },
    /// The initrd does not fit between the kernel and the end of what the kernel can reach.
    #[error("the initrd of {size} bytes does not fit into the memory the kernel can find it in")]
    InitrdTooBig {
        /// Bytes of the initrd.
        size: u64,
    },
    /// The initrd is empty.
    #[error("the initrd is empty; leave it out or give a whole one")]
    InitrdEmpty,
    /// The command line is too long for this kernel.
    #[error("the command line has {len} bytes, this kernel takes at most {max}")]
    CmdlineTooLong {
        /// Bytes given.
        len: usize,
        /// Bytes the kernel says it takes.
        max: usize,
    },
    /// A file could not be read.
    #[error("cannot read the {what}: {source}")]
    Read {
        /// Which file.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Guest memory could not be written.
    #[error("cannot write the {what} to guest memory at {address:#x}: {reason}")]
    Write {
        /// Which structure.
        what: &'static str,
        /// Where.
        address: u64,
        /// Why.
        reason: String,
    },
}

/// How the first vCPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Linux 64-bit boot protocol: long mode, RSI points to the zero page.
    Linux64 {
        /// Entry point.
        rip: u64,
    },
    /// PVH: 32-bit protected mode, EBX points to the start information.
    Pvh {
        /// Entry point.
        eip: u32,
    },
}

/// The files and words to boot.
#[derive(Debug)]
pub struct Payload {
    /// Kernel, bzImage or ELF.
    pub kernel: File,
    /// Initial RAM disk.
    pub initrd: Option<File>,
    /// Kernel command line.
    pub cmdline: String,
}

/// Where the loaded initrd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub address: u64,
    pub size: u64,
}

/// Puts the payload into guest memory.
///
/// `memory_bytes` is the guest's RAM, `rsdp` the address of the ACPI root pointer.
///
/// # Errors
/// [`BootError`] says what is wrong with which part.
pub fn load(
    payload: &mut Payload,
    memory: &GuestMemory,
    memory_bytes: u64,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let map = memory_map(memory_bytes);
    match bzimage::load(payload, memory, memory_bytes, &map, rsdp) {
        Ok(entry) => Ok(entry),
        Err(bzimage::Failure::Fatal(error)) => Err(error),
        Err(bzimage::Failure::NotBzImage(bzimage)) => {
            pvh::check_room(&payload.kernel, memory_bytes)?;
            let kernel = linux_loader::loader::Elf::load(
                memory,
                None,
                &mut payload.kernel,
                Some(GuestAddress(layout::HIGH_MEMORY)),
            )
            .map_err(|error| BootError::UnknownFormat { bzimage, elf: error.to_string() })?;
            pvh::load(payload, &kernel, memory, memory_bytes, &map, rsdp)
        }
    }
}

fn write_cmdline(memory: &GuestMemory, cmdline: &str, max: usize) -> Result<(), BootError> {
    let limit = max.min(layout::CMDLINE_SIZE as usize - 1);
    if cmdline.len() > limit {
        return Err(BootError::CmdlineTooLong { len: cmdline.len(), max: limit });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    write(memory, "command line", layout::CMDLINE, &bytes)
}

fn write(
    memory: &GuestMemory,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), BootError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|error| BootError::Write {
        what,
        address,
        reason: error.to_string(),
    })
}
