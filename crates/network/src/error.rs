//! Errors.

use std::{io, net::SocketAddrV4};

/// Why something about a host's networks failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process lacks a privilege.
    #[error(
        "no permission to make network namespaces: run the agent as root (CAP_SYS_ADMIN, CAP_NET_ADMIN): {0}"
    )]
    Permission(#[source] io::Error),
    /// A VPC that no reconciliation has brought to this host.
    #[error("VPC {0} is not on this host yet: reconcile with it among the desired VPCs first")]
    UnknownVpc(String),
    /// Another host has ENIs of a VPC, and this one does not know how to reach it.
    #[error(
        "{0} has instances on other hosts, which cannot be reached: this host has no underlay address (agent's --underlay-ip)"
    )]
    NoUnderlay(String),
    /// There are public addresses, and no interface to answer for them on.
    #[error(
        "public addresses cannot be reached: the host has no default route and no uplink was named (agent's --uplink)"
    )]
    NoUplink,
    /// A namespace that does not exist.
    #[error("namespace of VNI {0} does not exist on this host: reconcile its VPC first")]
    NoNamespace(u32),
    /// A field of the desired state makes no sense.
    #[error("{resource}: {field} is {value:?}, expected {expected}")]
    Invalid {
        /// ECS id.
        resource: String,
        /// Field of the spec.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Two resources claim what only one can have.
    #[error("{resource}: {what} is already taken by {other}")]
    Conflict {
        /// ECS id of the one refused.
        resource: String,
        /// What both claim.
        what: String,
        /// ECS id of the one that has it.
        other: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on which resource.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("{what}: {message}")]
    Netlink {
        /// What was attempted, on which resource.
        what: String,
        /// The kernel's answer.
        message: String,
    },
    /// `nft` refused a ruleset; the rules before it are still in force.
    #[error("nft refused the rules of {namespace}, the old rules stay in force: {message}")]
    Nft {
        /// The namespace.
        namespace: String,
        /// What nft printed.
        message: String,
    },
    /// An address inside a VPC did not accept a connection.
    #[error(
        "cannot connect to {to} in VNI {vni}: {source}; check that the instance runs, listens there, and that a security group allows the port from 100.104.0.1"
    )]
    Connect {
        /// Where to.
        to: SocketAddrV4,
        /// In which VPC.
        vni: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// The runtime is shutting down.
    #[error("the network worker ended before it answered")]
    WorkerGone,
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}
