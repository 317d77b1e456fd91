//! Why a machine could not be set up or could not go on.

use crate::{
    boot::BootError, bus::BusError, config::ConfigError, jail::JailError, memory::MemoryError,
};
use api::vmm::ExitCode;
use std::io;

/// Every reason the process ends without the guest's doing.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The machine description is not one that can be built.
    #[error("machine description refused: {0}")]
    Config(#[from] ConfigError),
    /// The kernel or the initrd cannot be booted.
    #[error("cannot boot: {0}")]
    Boot(#[from] BootError),
    /// Guest RAM cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The jail cannot be closed.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// Two devices want the same address, which is a fault of this program.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried, on which resource.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// A device could not be attached.
    #[error("{device}: {message}")]
    Device {
        /// Which device.
        device: String,
        /// What is wrong with it.
        message: String,
    },
}

impl VmmError {
    /// A refusal by the host of `what`.
    pub fn host(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Host { what: what.into(), source: source.into() }
    }

    /// Exit code of the process that ends with this error.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::Config,
            Self::Boot(_) => ExitCode::Boot,
            Self::Memory(_)
            | Self::Bus(_)
            | Self::Jail(_)
            | Self::Host { .. }
            | Self::Device { .. } => ExitCode::Host,
        }
    }
}
