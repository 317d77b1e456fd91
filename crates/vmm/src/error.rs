//! Why a machine could not be set up or could not go on.

use crate::{
    boot::BootError, bus::BusError, config::ConfigError, jail::JailError, memory::MemoryError,
    pci::PciError, virtio::DeviceError,
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
    /// The machine is larger than any this host can run.
    #[error("{field}: {limit}")]
    TooLarge {
        /// Field of the description.
        field: &'static str,
        /// What the host has.
        limit: String,
    },
    /// The PCI bus cannot be set up.
    #[error("PCI: {0}")]
    Pci(#[from] PciError),
    /// A device could not be attached.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
            // What no second try changes is for the description's author.
            Self::Device(error) if error.is_permanent() => ExitCode::Config,
            Self::Memory(_)
            | Self::Bus(_)
            | Self::Jail(_)
            | Self::Host { .. }
            | Self::TooLarge { .. }
            | Self::Pci(_)
            | Self::Device(_) => ExitCode::Host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_try_may_mend_is_the_hosts_fault() {
        let image = |source| DeviceError::Image { disk: "d-1".to_owned(), source };
        let pci = |source| DeviceError::Pci { resource: "d-1".to_owned(), source };
        let broken = || qcow2::Error::Corrupt { problem: "a loop".to_owned() };
        let unread = || qcow2::Error::Io {
            action: "read the header".to_owned(),
            source: io::ErrorKind::TimedOut.into(),
        };
        let layer = |source| qcow2::Error::Layer { index: 1, source: Box::new(source) };
        let code = |error: DeviceError| VmmError::from(error).code();
        assert_eq!(code(crate::config::bad("disks", "none", "give one").into()), ExitCode::Config);
        assert_eq!(code(image(broken())), ExitCode::Config);
        assert_eq!(code(image(layer(broken()))), ExitCode::Config);
        assert_eq!(code(image(layer(unread()))), ExitCode::Host);
        assert_eq!(code(pci(PciError::NoSlot)), ExitCode::Config);
        let source = io::ErrorKind::OutOfMemory.into();
        assert_eq!(code(pci(PciError::Host { what: "ask", source })), ExitCode::Host);
        assert_eq!(
            code(DeviceError::host("d-1", "open")(io::ErrorKind::TimedOut.into())),
            ExitCode::Host
        );
    }
}
