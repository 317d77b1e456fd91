//! What this process says on stderr.
//!
//! Nothing here fails: stderr is mostly a file, and a host whose disk is full must not lose its
//! machines over a message that has no room.

use std::{
    fmt,
    io::Write as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Writes a line to stderr, if it takes it.
pub fn say(line: fmt::Arguments<'_>) {
    // In one piece, so that lines of several threads do not mix.
    let _ = std::io::stderr().lock().write_all(format!("ecs-vmm: {line}\n").as_bytes());
}

/// Lines in a window.
const LINES: u32 = 16;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);
/// Bytes in the life of the process.
const BYTES: usize = 1 << 20;

/// How much a guest may still make this process say.
struct Budget {
    since: Option<Instant>,
    lines: u32,
    bytes: usize,
}

static BUDGET: Mutex<Budget> = Mutex::new(Budget { since: None, lines: 0, bytes: BYTES });

impl Budget {
    /// Whether `len` bytes may be written now, and what to add if they are the last for a while.
    fn take(&mut self, now: Instant, len: usize) -> Option<&'static str> {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (self.since, self.lines) = (Some(now), 0);
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines > LINES || self.bytes == 0 {
            return None;
        }
        self.bytes = self.bytes.saturating_sub(len);
        Some(match (self.bytes, self.lines) {
            (0, _) => " (no more of these are shown until the machine is started again)",
            (_, LINES) => " (more of these are not shown for a while)",
            _ => "",
        })
    }
}

/// Writes a line a guest can cause to stderr, unless there have been many.
pub(crate) fn report(line: fmt::Arguments<'_>) {
    let line = line.to_string();
    let mut budget = BUDGET.lock().unwrap_or_else(PoisonError::into_inner);
    let turn = budget.take(Instant::now(), line.len());
    drop(budget);
    if let Some(last) = turn {
        say(format_args!("{line}{last}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_a_number_of_lines_and_then_another_begins() {
        let mut budget = Budget { since: None, lines: 0, bytes: BYTES };
        let start = Instant::now();
        let shown = (0..1000).filter(|_| budget.take(start, 80).is_some()).count();
        assert_eq!(shown, LINES as usize);
        assert_eq!(budget.take(start + WINDOW, 80), Some(""));
    }

    #[test]
    fn a_patient_guest_does_not_fill_the_disk_either() {
        let mut budget = Budget { since: None, lines: 0, bytes: BYTES };
        let start = Instant::now();
        let lines = (0..100_000).filter(|&n| budget.take(start + n * WINDOW, 80).is_some());
        assert_eq!(lines.count(), BYTES.div_ceil(80));
    }
}
