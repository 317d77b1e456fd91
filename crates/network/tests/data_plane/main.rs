//! Real packets through real namespaces, taps and rules. Needs root, `ip` and `nft`.

mod cloud;
mod fabric;
mod guest;

mod bandwidth;
mod dhcp;
mod edge;
mod groups;
mod isolation;
mod lifecycle;
mod overlay;
mod routes;
