//! The control socket: requests from the agent or from people, answers, and events.

pub mod client;
pub mod frame;
mod server;
mod session;

pub use server::{ControlThread, Listeners};

use api::vmm::{Error, request::Op, response::Result as Answer};

/// What the control socket's requests are put to.
pub trait Service: Send + Sync {
    /// Does what is asked and says how it went.
    ///
    /// # Errors
    /// What the client is told instead.
    fn perform(&self, op: &Op) -> Result<Answer, Error>;
}

/// A refusal, with one of the codes `NotFound`, `InvalidState`, `InvalidRequest` and `Io`.
pub fn refusal(code: &str, message: impl Into<String>) -> Error {
    Error { code: code.to_owned(), message: message.into() }
}
