//! The terminal the process was started from, when the console is on stdio.

use nix::sys::termios::{self, SetArg, Termios};
use std::io::{self, IsTerminal as _};

/// Puts the terminal into raw mode until dropped, so that every key reaches the guest.
#[derive(Debug)]
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `None` if stdin is no terminal.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // Messages of this process still need their carriage returns.
        raw.output_flags = before.output_flags;
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing is left to do about a terminal that refuses.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

const CONTROL_A: u8 = 1;

/// Finds `Ctrl-A x` among what is typed.
#[derive(Debug, Default)]
pub(super) struct Escape {
    pending: bool,
}

impl Escape {
    /// What is meant for the guest goes to `guest`; `true` when the person wants to leave. `Ctrl-A`
    /// twice is one for the guest.
    pub(super) fn filter(&mut self, typed: &[u8], guest: &mut impl Extend<u8>) -> bool {
        for &byte in typed {
            match (self.pending, byte) {
                (false, CONTROL_A) => self.pending = true,
                (true, b'x' | b'X') => return true,
                (pending, _) => {
                    if pending && byte != CONTROL_A {
                        guest.extend([CONTROL_A]);
                    }
                    self.pending = false;
                    guest.extend([byte]);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_leaves_and_everything_else_is_typed() {
        let mut escape = Escape::default();
        let mut typed = Vec::new();
        assert!(!escape.filter(b"ls\x01", &mut typed));
        assert!(!escape.filter(b"\x01y\x01z", &mut typed));
        assert_eq!(typed, b"ls\x01y\x01z");
        assert!(!escape.filter(b"\x01", &mut typed));
        assert!(escape.filter(b"x", &mut typed));
    }
}
