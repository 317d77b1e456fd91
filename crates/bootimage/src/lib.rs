//! A read-only look inside an untrusted disk for the kernel, the initrd and the command line to
//! boot.
//!
//! The disk belongs to a guest, so everything on it is hostile: every read goes through one meter
//! with a budget of bytes, reads and time ([`Limits`]), structures that crates allocate by are
//! checked before, and the binary `ecs-bootimage` does all of it in a process that has given up its
//! rights ([`confine`]). Nothing of the host is looked at: no mount, no device, no environment.

mod command_line;
pub mod confine;
mod entries;
mod error;
mod filesystems;
mod find;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod kernel;
mod limits;
mod partitions;
mod source;

pub use error::Error;
pub use find::{BootFiles, find};
pub use limits::Limits;
pub use partitions::{Partition, Table};
pub use source::{BlockSource, RawFile};
