//! The serial console of a guest, held open: for tests that ask much and often.

use crate::Cloud;
use anyhow::{Context as _, Result, bail};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// Detaches when dropped.
#[derive(Debug)]
pub struct Screen {
    id: String,
    session: Child,
    keys: ChildStdin,
    lines: Receiver<String>,
}

impl Screen {
    /// Attaches to an instance's console.
    ///
    /// # Errors
    /// When `ecsctl` cannot be run.
    pub fn of(cloud: &Cloud, id: &str) -> Result<Self> {
        let mut session = Command::new(cloud.program())
            .args(["console", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run ecsctl")?;
        let keys = session.stdin.take().context("no standard input")?;
        let mut screen = BufReader::new(session.stdout.take().context("no standard output")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while matches!(screen.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        Ok(Self { id: id.to_owned(), session, keys, lines })
    }

    /// Types a line.
    ///
    /// # Errors
    /// When the console has closed.
    pub fn line(&mut self, text: &str) -> Result<()> {
        let typed = writeln!(self.keys, "{text}").and_then(|()| self.keys.flush());
        typed.with_context(|| format!("the console of {} has closed", self.id))
    }

    /// The rest of the first line from now on that has `start` in it.
    ///
    /// # Errors
    /// When it does not come within `limit`; what came is in the error.
    pub fn wait(&self, start: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.split_once(start) {
                    Some((_, rest)) => return Ok(rest.trim().to_owned()),
                    None => seen.push(line),
                },
                Err(why) => {
                    let why = match why {
                        RecvTimeoutError::Timeout => format!("in {} s", limit.as_secs()),
                        RecvTimeoutError::Disconnected => "before it closed".to_owned(),
                    };
                    let tail = seen.split_off(seen.len().saturating_sub(10)).join("\n");
                    bail!("no {start:?} on the console of {} {why}: {tail}", self.id);
                }
            }
        }
    }

    /// Types a command for the guest's shell and gives what it prints, as one line.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn shell(&mut self, command: &str, limit: Duration) -> Result<String> {
        // What is typed is shown too, and must not look like the answer.
        self.line(&format!("a=$({{ {command}; }} 2>&1 | tr '\\n' ' '); echo \"said\": $a"))?;
        self.wait("said:", limit)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}
