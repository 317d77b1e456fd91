//! Gives every ENI its address, and nobody else's.

mod reply;
mod request;
mod server;

pub(crate) use reply::Lease;
pub(crate) use server::Server;
