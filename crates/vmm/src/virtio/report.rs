//! Messages a guest can cause, which it must not be able to fill a log with.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines in a window.
const LINES: u32 = 16;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);

struct Budget {
    since: Option<Instant>,
    lines: u32,
}

static BUDGET: Mutex<Budget> = Mutex::new(Budget { since: None, lines: 0 });

impl Budget {
    /// Whether a line may be written now, and whether it is the last for a while.
    fn take(&mut self, now: Instant) -> Option<bool> {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            *self = Self { since: Some(now), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= LINES).then_some(self.lines == LINES)
    }
}

/// Writes a line to stderr, unless there have been many.
pub(crate) fn report(line: fmt::Arguments<'_>) {
    let turn = BUDGET.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
    match turn {
        Some(false) => eprintln!("ecs-vmm: {line}"),
        Some(true) => eprintln!("ecs-vmm: {line} (more of these are not shown for a while)"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_a_number_of_lines_and_then_another_begins() {
        let mut budget = Budget { since: None, lines: 0 };
        let start = Instant::now();
        let shown = (0..1000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(shown, LINES as usize);
        assert_eq!(budget.take(start + WINDOW), Some(false));
    }
}
