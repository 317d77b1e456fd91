//! The instance metadata service at 100.100.100.200.
//!
//! Who asks is known by where the question arrives and from which address: a listener belongs to
//! one VPC's namespace, whose packet filter has verified the source address. Nothing in a request
//! can claim to be somebody else.
//!
//! The tree is the same under `/latest` and `/2016-01-01`, which is what old and new cloud-init ask
//! for. Names are those of ECS; what this cloud has nothing to say about is not listed and not
//! found, since a tree walk gives up at the first listed entry that is missing.

mod answer;
mod directory;
mod server;
mod token;
mod tree;
mod view;

pub use directory::Directory;
pub use server::Service;
pub use view::{Bandwidth, InstanceView};
