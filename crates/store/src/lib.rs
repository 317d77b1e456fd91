//! Durable state of the control plane behind a trait whose methods are whole transactions.
//!
//! Rules of ECS are not here: a transaction loads what a decision needs, hands it to a pure function
//! of the caller, and writes what that function planned, all in one. The store itself guarantees
//! what only it can see: unique values, claims within a host's capacity, client tokens, revisions
//! and the change feed.

mod disk_records;
mod disk_transactions;
mod edge_records;
mod edge_transactions;
mod eni_records;
mod error;
mod filters;
mod network_transactions;
mod pool_records;
mod records;
mod snapshot_records;
mod sqlite;
mod transactions;

pub use disk_records::*;
pub use disk_transactions::*;
pub use edge_records::*;
pub use edge_transactions::*;
pub use eni_records::*;
pub use error::{Refusal, StoreError};
pub use filters::*;
pub use network_transactions::*;
pub use pool_records::*;
pub use records::*;
pub use snapshot_records::*;
pub use sqlite::{SqliteOptions, SqliteStore};
pub use transactions::*;
