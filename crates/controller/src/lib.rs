//! ECS semantics: the API, the scheduler, the host spec.
//!
//! A call validates, writes what is wanted in one transaction and answers. Hosts watch their spec
//! and report what they have; the status people see is derived from both in [`instance_state`].

pub mod api;
mod cloud;
mod data_dir;
mod disk_metrics;
pub mod disk_state;
mod ecs_error;
mod encryption;
pub mod eni_state;
mod group_membership;
pub mod host_spec;
mod hosts;
mod ids;
mod image_state;
mod images;
pub mod instance_state;
mod nat_placement;
mod public_addresses;
pub mod scheduler;
mod server;
mod snapshot_policies;
pub mod snapshot_state;
pub mod status_intake;
mod timestamp;
mod validation;

pub use cloud::{Cloud, CloudOptions};
pub use data_dir::DataDir;
pub use server::{ServeError, open, serve};
