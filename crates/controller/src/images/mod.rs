//! Image files: taking them in, checking them, giving them to hosts.

mod files;
mod format;
mod imports;

pub(crate) use files::{ImageFiles, Incoming};
pub(crate) use format::{MOST as MOST_BYTES, inspect};
pub(crate) use imports::Imports;
