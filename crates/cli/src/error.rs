//! What goes wrong and what to do about it.

use std::{io, path::Path, process::ExitCode};
use tonic::Code;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a command, as people see it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The cloud refused the call.
    #[error("{}", .0.message())]
    Refused(Box<tonic::Status>),
    /// Nobody answers at the endpoint.
    #[error("no cloud answers at {endpoint}: {cause}")]
    Unreachable { endpoint: String, cause: String },
    /// `--wait` ended before the resource was as wanted.
    #[error("{0}")]
    TimedOut(String),
    /// No such resource; the text names it and how to find out which there are.
    #[error("{0}")]
    NotFound(String),
    /// An order that may have been carried out, or was, although something failed after it.
    #[error("{source}")]
    Ordered { note: String, source: Box<Error> },
    /// The resource went into a state from which it will not become what was waited for.
    #[error("{0}")]
    Failed(String),
    /// A local file.
    #[error("cannot {action} {path}: {source}")]
    File { action: &'static str, path: String, source: io::Error },
    /// The terminal, a socket or a program.
    #[error("{action}: {source}")]
    Io { action: String, source: io::Error },
    /// Something on this machine that is not as it must be; the text says how to put it right.
    #[error("{0}")]
    Local(String),
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Adds what has become of an order.
    pub(crate) fn ordered(self, note: String) -> Self {
        Self::Ordered { note, source: Box::new(self) }
    }

    /// ECS answers a dry run that found nothing wrong with an error; it is none.
    pub(crate) fn is_passed_dry_run(&self) -> bool {
        match self {
            Self::Refused(status) => {
                api::error::ecs_code(status).as_deref() == Some("DryRunOperation")
            }
            Self::Ordered { source, .. } => source.is_passed_dry_run(),
            _ => false,
        }
    }

    /// Whoever read standard output has gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether the cloud may answer when asked again: it or the way to it was away. What the cloud
    /// itself refuses carries an ECS code.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(status) => match status.code() {
                Code::Unavailable => true,
                Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded => {
                    api::error::ecs_code(status).is_none()
                }
                _ => false,
            },
            Self::Unreachable { .. } => true,
            _ => false,
        }
    }

    /// The whole text for standard error.
    pub(crate) fn report(&self) -> String {
        match self {
            Self::Refused(status) => {
                let code =
                    api::error::ecs_code(status).unwrap_or_else(|| format!("{:?}", status.code()));
                let mut text = format!("Error {code}: {}\n", status.message());
                if let Some(id) = api::error::request_id(status) {
                    text.push_str(&format!("Request id: {id}\n"));
                }
                if let Some(hint) = hint(status.code()) {
                    text.push_str(&format!("Hint: {hint}\n"));
                }
                text
            }
            Self::Unreachable { .. } => format!(
                "Error: {self}\nHint: start one here with `ecsctl lab up`, or name a running one \
                 with --endpoint or ECS_ENDPOINT\n"
            ),
            Self::Ordered { note, source } => format!("{}Note: {note}\n", source.report()),
            other => format!("Error: {other}\n"),
        }
    }

    /// 1 refused or failed, 3 not found, 4 timed out, 5 no cloud; 2 is a wrong command line.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused(status) if status.code() == Code::NotFound => 3,
            Self::Refused(status) if status.code() == Code::Unavailable => 5,
            Self::NotFound(_) => 3,
            Self::TimedOut(_) => 4,
            Self::Unreachable { .. } => 5,
            Self::Ordered { source, .. } => return source.exit_code(),
            _ => 1,
        })
    }
}

/// What to do about a refusal whose message comes from below the cloud itself.
fn hint(code: Code) -> Option<&'static str> {
    match code {
        Code::Unimplemented => Some("this cloud does not have that call yet"),
        Code::Unavailable => Some("the controller or a host is away for the moment; try again"),
        Code::DeadlineExceeded => {
            Some("the call took too long; it may still have been carried out")
        }
        Code::NotFound => Some("the list command of the resource shows which ids there are"),
        Code::Internal | Code::Unknown => Some("`ecsctl lab logs` has what the controller said"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_code_message_request_id_and_hint() {
        let status = api::error::status(
            Code::NotFound,
            "InvalidInstanceId.NotFound",
            "there is no instance i-1",
            "5B8A",
        );
        let error = Error::from(status);
        assert_eq!(
            error.report(),
            "Error InvalidInstanceId.NotFound: there is no instance i-1\nRequest id: 5B8A\n\
             Hint: the list command of the resource shows which ids there are\n"
        );
        assert_eq!(format!("{:?}", error.exit_code()), format!("{:?}", ExitCode::from(3)));
    }

    #[test]
    fn a_dry_run_that_found_nothing_wrong_is_no_error() {
        let status = |code| api::error::status(Code::FailedPrecondition, code, "text", "5B8A");
        assert!(Error::from(status("DryRunOperation")).ordered("x".into()).is_passed_dry_run());
        assert!(!Error::from(status("IncorrectInstanceStatus")).is_passed_dry_run());
    }

    #[test]
    fn only_what_the_cloud_did_not_say_itself_is_asked_again() {
        assert!(Error::from(tonic::Status::unavailable("away")).is_transient());
        assert!(Error::from(tonic::Status::unknown("transport error")).is_transient());
        let said = api::error::status(Code::Internal, "InternalError", "the store failed", "5B8A");
        assert!(!Error::from(said).is_transient());
        assert!(!Error::TimedOut("late".to_owned()).is_transient());
    }

    #[test]
    fn an_order_that_failed_later_keeps_its_exit_code_and_says_what_there_is() {
        let error = Error::TimedOut("not Running after 3 s".to_owned());
        let code = format!("{:?}", error.exit_code());
        let error = error.ordered("instance i-1 was created".to_owned());
        assert_eq!(format!("{:?}", error.exit_code()), code);
        assert_eq!(
            error.report(),
            "Error: not Running after 3 s\nNote: instance i-1 was created\n"
        );
    }

    #[test]
    fn an_absent_cloud_names_the_endpoint_and_the_way_out() {
        let error = Error::Unreachable {
            endpoint: "http://127.0.0.1:1".to_owned(),
            cause: "connection refused".to_owned(),
        };
        assert!(error.report().contains("http://127.0.0.1:1"));
        assert!(error.report().contains("ecsctl lab up"));
    }
}
