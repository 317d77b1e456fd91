//! The spec of one host: built whole from one snapshot of the store, and published on change.

mod build;
pub(crate) mod edge;
mod publisher;

pub use build::build;
pub(crate) use build::{eni, group, prefix_list};
pub(crate) use publisher::watch;
