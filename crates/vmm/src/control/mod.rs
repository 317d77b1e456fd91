//! The control socket: requests from the agent or from people, answers, and events.

pub mod client;
mod files;
pub mod frame;
mod server;
mod session;

pub use files::{Files, MAX_FILES};
pub use server::{ControlThread, Listeners};

use api::vmm::{Error, request::Op, response::Result as Answer};

/// What the control socket's requests are put to.
pub trait Service: Send + Sync {
    /// Whether the request may take long. It is then performed in a thread of its own, while the
    /// client waits and others do not.
    fn takes_long(&self, _op: &Op) -> bool {
        false
    }
    /// Does what is asked and says how it went. `files` came with the request.
    ///
    /// # Errors
    /// What the client is told instead.
    fn perform(&self, op: &Op, files: Files) -> Result<Answer, Error>;
}

/// A refusal, with one of the codes `NotFound`, `InvalidState`, `InvalidArgument`, `InvalidRequest`
/// and `Io`.
pub fn refusal(code: &str, message: impl Into<String>) -> Error {
    Error { code: code.to_owned(), message: message.into() }
}
