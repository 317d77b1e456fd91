//! Tells guests their IPv6 addresses and their router, and nobody else's.
//!
//! Routers are found by advertisements, which name no prefix: everything goes by way of the router.
//! Addresses are given by DHCPv6. Both are spoken over the tap; the link-local address that the kernel
//! gives the host's end is the router.

mod advert;
mod lease;
mod server;

pub(crate) use lease::Lease6;
pub(crate) use server::Server6;
