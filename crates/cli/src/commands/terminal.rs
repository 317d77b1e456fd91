//! The terminal: raw while a console is attached, and back as it was.

use crate::error::{Error, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::{
    io::{IsTerminal as _, Read as _},
    thread,
};
use tokio::sync::mpsc;

/// Raw mode of standard input until dropped; nothing where it is not a terminal.
#[derive(Debug)]
pub(super) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    pub(super) fn enter() -> Result<Self> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(&input)
            .map_err(|e| Error::io("cannot read the terminal's mode")(e.into()))?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&input, SetArg::TCSANOW, &raw)
            .map_err(|e| Error::io("cannot change the terminal's mode")(e.into()))?;
        Ok(Self { before: Some(before) })
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Standard input in pieces; it ends with the input.
pub(super) fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    // A read of a terminal cannot be called off, so it has a thread of its own that nobody waits for.
    thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        let mut input = std::io::stdin().lock();
        while let Ok(length) = input.read(&mut buffer) {
            if length == 0 || sender.blocking_send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Finds `~.` at the start of a line; `~~` there is one `~`.
#[derive(Debug)]
pub(super) struct Escape {
    line_start: bool,
    tilde: bool,
}

impl Escape {
    pub(super) fn new() -> Self {
        Self { line_start: true, tilde: false }
    }

    /// What to send of `input`, and whether to leave.
    pub(super) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut output = Vec::with_capacity(input.len());
        for &byte in input {
            if self.tilde {
                self.tilde = false;
                match byte {
                    b'.' => return (output, true),
                    b'~' => output.push(b'~'),
                    other => output.extend([b'~', other]),
                }
                self.line_start = matches!(byte, b'\r' | b'\n');
            } else if self.line_start && byte == b'~' {
                self.tilde = true;
            } else {
                self.line_start = matches!(byte, b'\r' | b'\n');
                output.push(byte);
            }
        }
        (output, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tilde_and_a_dot_at_the_start_of_a_line_leave() {
        let filter = |pieces: &[&str]| {
            let mut escape = Escape::new();
            let mut all = String::new();
            for piece in pieces {
                let (output, leave) = escape.filter(piece.as_bytes());
                all.push_str(&String::from_utf8(output).unwrap());
                if leave {
                    return (all, true);
                }
            }
            (all, false)
        };
        assert_eq!(filter(&["~."]), (String::new(), true));
        assert_eq!(filter(&["ls\r", "~", "."]), ("ls\r".to_owned(), true));
        assert_eq!(filter(&["a~.b"]), ("a~.b".to_owned(), false));
        assert_eq!(filter(&["~~.\r"]), ("~.\r".to_owned(), false));
        assert_eq!(filter(&["~/x\r~."]), ("~/x\r".to_owned(), true));
    }
}
