//! Image files: taking them in, making them of snapshots, checking them, giving them to hosts and
//! people.

mod builds;
mod export;
mod files;
mod format;
mod imports;
mod pull;

pub(crate) use builds::{Builds, run as run_builds};
pub(crate) use export::{Exports, send};
pub(crate) use files::{ImageFiles, Incoming};
pub(crate) use format::{MOST as MOST_BYTES, inspect};
pub(crate) use imports::Imports;
