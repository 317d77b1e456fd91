//! What a guest finds that jumps to where firmware would start: a few instructions that reset the
//! machine. Linux does so to reboot: on hardware-reduced ACPI it wants EFI's reset, and without EFI
//! its next choice is the real-mode entry of the firmware, not the ACPI reset register.

use super::{BootError, write};
use crate::{acpi::RESET_VALUE, layout, memory::GuestMemory};

/// Real-mode entry point of firmware, ffff:0000.
const VECTOR: u64 = 0xf_fff0;

/// `mov dx, RESET; mov al, RESET_VALUE; out dx, al; hlt; jmp` back to `hlt`.
const fn code() -> [u8; 9] {
    let port = (layout::RESET as u16).to_le_bytes();
    [0xba, port[0], port[1], 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
}

/// Puts the instructions where a reset starts.
///
/// # Errors
/// If the first MiB is not guest memory.
pub fn write_reset_vector(memory: &GuestMemory) -> Result<(), BootError> {
    write(memory, "reset vector", VECTOR, &code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_below_the_first_mib_and_writes_the_reset_register() {
        assert!(VECTOR + code().len() as u64 <= layout::HIGH_MEMORY);
        assert_eq!(code()[..6], [0xba, 0x02, 0x06, 0xb0, 0x01, 0xee]);
    }
}
