//! The spec of one host: built whole from one snapshot of the store, and published on change.

mod build;
mod publisher;

pub use build::build;
pub(crate) use publisher::watch;
