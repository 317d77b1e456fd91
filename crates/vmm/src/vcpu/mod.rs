//! vCPUs: their state at reset and the threads that run them.

pub mod cpuid;
pub mod registers;
mod run;

pub use run::{Gate, RunState, VcpuThread, install_kick_handler, start};
