//! Devices at fixed ports.

pub mod clock;
pub mod ged;
pub mod panic_port;
pub mod power;
pub mod reset;
pub mod serial;
