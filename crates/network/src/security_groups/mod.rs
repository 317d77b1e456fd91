//! From ECS security groups to nftables.
//!
//! [`policy`] merges the rules of an interface's groups into one ordered list, as ECS defines it.
//! [`compile`] turns the lists of all interfaces of a VPC into a [`ruleset::Ruleset`], and
//! [`ruleset`] writes that as nft commands, whole or as the difference to another one. Nothing here
//! touches the system.

mod base;
pub(crate) mod compile;
mod group_chains;
pub mod policy;
mod rule;
pub(crate) mod ruleset;

#[cfg(test)]
mod equivalence;
