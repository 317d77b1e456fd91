//! Virtio over PCI, modern only.

mod common;
mod layout;
mod pci;

#[cfg(test)]
mod tests;

pub use pci::{VirtioPci, attach, plug};
