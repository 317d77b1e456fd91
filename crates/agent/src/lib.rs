//! Reconciles one host with its spec.
//!
//! The controller publishes the whole spec of the host; the agent makes images, disks, networks and
//! instances match it and reports what the host has. It is level-triggered throughout: killed
//! anywhere and started again, it looks at what exists and goes on. Guests do not notice.

pub mod access;
pub mod agent;
pub mod capacity;
pub mod cgroups;
pub mod config;
pub mod controller_link;
pub mod disks;
pub mod durable_file;
pub mod error;
pub mod events;
pub mod host;
pub mod images;
pub mod instances;
pub mod interfaces;
pub mod layout;
pub mod lease;
pub mod metadata_directory;
pub mod networks;
pub mod pools;
pub mod reconcile;
pub mod underlay;
pub mod vmm_client;

pub use error::{Error, Result};
