//! What is waited for, how far it is and for how long: a moving line on a terminal, a line for each
//! change elsewhere. All on standard error, so that answers stay clean.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::RefCell,
    io::IsTerminal as _,
    time::{Duration, Instant},
};

/// One wait.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    bar: ProgressBar,
    started: Instant,
    patience: Duration,
    terminal: bool,
    last: RefCell<String>,
}

impl Progress {
    /// A wait of unknown length for at most `patience`.
    pub(crate) fn start(name: &str, patience: Duration) -> Self {
        let bar = ProgressBar::new_spinner();
        Self::with_bar(name, patience, bar, "{spinner} {prefix}: {msg} [{elapsed}]")
    }

    /// A transfer of `bytes`.
    pub(crate) fn transfer(name: &str, bytes: u64) -> Self {
        let template = "{prefix}: {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
        Self::with_bar(name, Duration::MAX, ProgressBar::new(bytes), template)
    }

    /// Work that says itself how much of it is done.
    pub(crate) fn percent(name: &str) -> Self {
        let template = "{spinner} {prefix}: {bar:30} {msg} [{elapsed}]";
        Self::with_bar(name, Duration::MAX, ProgressBar::new(100), template)
    }

    /// How much of 100 is done.
    pub(crate) fn position(&self, percent: u64) {
        self.bar.set_position(percent);
    }

    fn with_bar(name: &str, patience: Duration, bar: ProgressBar, template: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        bar.set_draw_target(if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        let last = RefCell::default();
        Self { name: name.to_owned(), bar, started: Instant::now(), patience, terminal, last }
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Says how it stands.
    pub(crate) fn set(&self, message: &str) {
        if self.terminal {
            self.bar.set_message(message.to_owned());
        } else if *self.last.borrow() != message {
            self.line(message);
            *self.last.borrow_mut() = message.to_owned();
        }
    }

    fn line(&self, message: &str) {
        eprintln!("{}: {message} [{} s]", self.name, self.started.elapsed().as_secs());
    }

    pub(crate) fn is_late(&self) -> bool {
        self.started.elapsed() > self.patience
    }

    /// Ends with a line that stays.
    pub(crate) fn done(&self, message: &str) {
        self.bar.finish_and_clear();
        self.line(message);
    }
}
