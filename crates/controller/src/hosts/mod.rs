//! Hosts: registration, leases, reports, and calls to their agents.

mod access;
mod leases;
mod pools;
mod registry;

pub(crate) use access::{HostAccess, agent_error, ask};
pub(crate) use leases::watch_leases;
pub(crate) use registry::Registry;
