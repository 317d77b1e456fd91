//! What can go wrong on a host, with the resource and what to do about it.

use std::{io, path::PathBuf};

/// Codes of disks that stay unusable by themselves.
const PERMANENT: [&str; 7] = [
    "DiskMissing",
    "DiskCorrupt",
    "InvalidDiskSize.TooSmall",
    "InvalidImageFormat.Unsupported",
    "LayerMissing",
    "SnapshotDamaged",
    "SnapshotMissing",
];

/// Errors of the agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the agent's own state.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file whose content the agent cannot read.
    #[error("{} is damaged: {detail}; move it away and start the agent again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        detail: String,
    },
    /// An operation on a resource failed; `code` travels to the API.
    #[error("{resource}: {message}")]
    Resource {
        /// ECS id.
        resource: String,
        /// ECS-like code.
        code: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The system disk holds nothing that can be booted; `code` travels to the API.
    #[error("{disk_id}: {message}")]
    NotBootable {
        /// The system disk.
        disk_id: String,
        /// ECS-like code.
        code: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// Another agent works on the same directory.
    #[error("another ecs-agent works on {}; stop it first or give this one its own --state-dir", .0.display())]
    SecondAgent(PathBuf),
    /// The start parameters do not fit this host.
    #[error("{0}")]
    Configuration(String),
    /// The controller refused or is not there.
    #[error("controller: {0}")]
    Controller(#[from] tonic::Status),
    /// The controller cannot be reached.
    #[error("cannot reach the controller at {endpoint}: {source}")]
    Unreachable {
        /// Its URL.
        endpoint: String,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// A VMM's control socket.
    #[error("VMM of {instance_id}: {detail}")]
    Vmm {
        /// The instance.
        instance_id: String,
        /// What it did not do.
        detail: String,
    },
}

impl Error {
    /// A failed operation on one resource.
    pub fn resource(
        resource: impl Into<String>,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Resource { resource: resource.into(), code: code.into(), message: message.into() }
    }

    /// The code the API shows.
    pub fn code(&self) -> &str {
        match self {
            Self::Resource { code, .. } | Self::NotBootable { code, .. } => code,
            Self::Vmm { .. } => "HostError.Vmm",
            Self::File { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                "HostError.NoSpace"
            }
            _ => "HostError",
        }
    }

    /// Whether trying again is of no use before somebody has changed the disk or its spec.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotBootable { .. } => true,
            Self::Resource { code, .. } => PERMANENT.contains(&code.as_str()),
            _ => false,
        }
    }
}

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was tried on which path to an I/O error.
pub(crate) trait FileContext<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> FileContext<T> for Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|e| Error::File { action, path: path.into(), source: e.into() })
    }
}
