//! What a transaction can answer instead of its result.

use std::borrow::Cow;

/// Why a decision said no. The store carries it out of the transaction untouched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// HTTP-like status the ECS API gives this refusal, e.g. 404.
    pub status: u16,
    /// Error code of the ECS API.
    pub code: Cow<'static, str>,
    /// What is wrong with which resource, and what to do.
    pub message: String,
}

/// Why a transaction was not done. Nothing of it is left behind.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The decision inside the transaction refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The client token is known with other parameters.
    #[error("client token {token} was used for {action} with other parameters; use a new token")]
    TokenMismatch {
        /// Action the token belongs to.
        action: String,
        /// The token.
        token: String,
    },
    /// A claim would use more of a host than it has.
    #[error("host {host_id} has no room for this claim; choose another host")]
    HostFull {
        /// The host.
        host_id: String,
    },
    /// A claim would promise more of a pool than it may.
    #[error("storage pool {pool_id} has no room for this claim; choose another")]
    PoolFull {
        /// The pool.
        pool_id: String,
    },
    /// No address is left in a VSwitch.
    #[error("VSwitch {vswitch_id} has no free address; use another VSwitch or release instances")]
    NoFreeAddress {
        /// The VSwitch.
        vswitch_id: String,
    },
    /// The wanted address is taken.
    #[error("address {address} in VSwitch {vswitch_id} is in use; choose another")]
    AddressInUse {
        /// The VSwitch.
        vswitch_id: String,
        /// The address asked for.
        address: std::net::IpAddr,
    },
    /// The host is not known, or the session is not its latest.
    #[error("host {host_id}: session {session} is not current; register again")]
    StaleSession {
        /// The host.
        host_id: String,
        /// The session the caller gave.
        session: u64,
    },
    /// Changes from this revision on are not kept any more: read everything again.
    #[error(
        "changes after revision {asked} are gone, oldest kept is {oldest}; read everything again"
    )]
    Compacted {
        /// The revision asked for.
        asked: u64,
        /// The oldest that can be asked for.
        oldest: u64,
    },
    /// A unique value is taken.
    #[error("{what} already exists")]
    AlreadyExists {
        /// Which value.
        what: String,
    },
    /// The database failed.
    #[error("database: {0}")]
    Backend(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Backend(error.to_string())
    }
}
