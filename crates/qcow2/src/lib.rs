//! The qcow2 disk image format: a pure metadata planner and the executors that carry its plans out.
//!
//! [`Image`] is a chain of layers seen as one disk. It is used with plain blocking calls
//! ([`Image::read_at`] and its siblings) or through one [`IoQueue`] per thread, which hands guest
//! memory straight to io_uring where the data is plain.

mod check;
mod compressed;
mod create;
mod error;
#[cfg(feature = "faults")]
pub mod faults;
#[cfg(not(feature = "faults"))]
mod faults;
mod flatten;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod image;
mod luks;
mod metadata;
mod plan;
mod probe;
mod pull;
mod queue;
mod request;
mod storage;
mod usage;

pub use check::{CheckReport, check, repair};
pub use create::{Backing, CreateOptions, create};
pub use error::Error;
pub use flatten::{Piece, flatten, flatten_encrypted};
pub use image::{Extent, Format, Image, Layer, Op, OpenOptions, Switched};
pub use luks::Passphrase;
pub use probe::{Info, probe, probe_chain};
pub use pull::{PullOptions, PullProgress, Pulled, pull, pull_encrypted, set_backing};
pub use queue::{Completion, IoQueue, QueueFull, Request, RingPool};
pub use request::iovec::Iovecs;
pub use usage::changed_bytes;

#[cfg(test)]
mod tests;
