//! Image files: taking them in, checking them, giving them to hosts.

mod files;
mod format;

pub(crate) use files::{ImageFiles, Incoming};
pub(crate) use format::inspect;
