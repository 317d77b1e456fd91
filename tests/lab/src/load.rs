//! A guest that writes numbered blocks, flushes each, says so, and later looks whether all are there.

use crate::{Cloud, wait};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

const SCRIPT: &str = include_str!("../guest/flushed_load.sh");
/// The script writes as far as this.
pub const DISK_GIB: u64 = 40;
/// Where a tiny guest has its first data disk.
const DISK: &str = "/dev/vdb";
/// For a guest to hear of a check, read some blocks and say what it found.
const CHECK: Duration = Duration::from_secs(120);
/// A whole host may have to start first, and its guests.
const BACK: Duration = Duration::from_secs(420);

/// The load in one tiny guest, and what it has said.
#[derive(Debug)]
pub struct Load {
    cloud: Cloud,
    id: String,
    boots: u64,
    checks: u64,
    /// How many blocks, from 0 on, are known to have been flushed.
    flushed: u64,
}

impl Load {
    /// Installs the script in a guest that has just booted for the first time. It writes nothing yet.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn install(cloud: &Cloud, id: &str) -> Result<Self> {
        let mut load =
            Self { cloud: cloud.clone(), id: id.to_owned(), boots: 0, checks: 0, flushed: 0 };
        load.wait_for_next_boot()?;
        let lines: Vec<&str> =
            SCRIPT.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let text = format!(
            "cat >/load <<'.'\n{}\n.\nsync; echo \"load is $(wc -l </load)\" lines\n",
            lines.join("\n")
        );
        let answer = format!("load is {} lines", lines.len());
        cloud.ask(id, &text, &answer, CHECK)?;
        Ok(load)
    }

    /// How many blocks the guest has said to be flushed, as far as was heard.
    pub fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Hears what the guest has said until now.
    ///
    /// # Errors
    /// When the console cannot be read, or a write has failed in the guest.
    pub fn listen(&mut self) -> Result<()> {
        let console = self.cloud.console(&self.id)?;
        for line in console.lines().map(str::trim_end) {
            ensure!(!line.starts_with("failed "), "a write failed in {}: {line}", self.id);
            if let Some(number) = flushed_number(line) {
                self.flushed = self.flushed.max(number + 1);
            }
            // The line before may have been cut off by a kill.
            if let Some((_, boot)) = line.split_once("tiny: userland, boot ") {
                self.boots = self.boots.max(boot.parse().unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Waits until the guest has booted once more, and hears what it had said before. Starts it where
    /// its agent has given up, as a VMM that ends again and again soon after its start is left alone.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_next_boot(&mut self) -> Result<()> {
        let before = self.boots;
        let what = format!("another boot than {before} of {}", self.id);
        wait::until(&what, BACK, || {
            self.listen()?;
            if self.boots == before && self.is_given_up()? {
                self.cloud.run(["instance", "start", &self.id])?;
            }
            Ok((self.boots > before).then_some(()))
        })
    }

    fn is_given_up(&self) -> Result<bool> {
        let instance = self.cloud.instance(&self.id)?.context("the instance is gone")?;
        let reason = instance["status_reason"].as_str().unwrap_or_default();
        Ok(instance["status"] == "Stopped" && reason.starts_with("SystemFailure.VmmCrash:"))
    }

    /// Lets the guest look whether the last `window` of the flushed blocks are there, and then write
    /// on if `go_on`.
    ///
    /// # Errors
    /// When a block is lost, or the guest does not answer.
    pub fn check(&mut self, window: u64, go_on: bool) -> Result<()> {
        // Whoever is attached is let go when an agent dies.
        let line = wait::until("an answer to a check", BACK, || {
            self.listen()?;
            self.checks += 1;
            let (check, flushed) = (self.checks, self.flushed);
            let first = flushed.saturating_sub(window);
            let text = format!(
                "\nsh /load {DISK} c{check} {first} {flushed}{}\n",
                if go_on { " &" } else { " stop" }
            );
            self.cloud.ask(&self.id, &text, &format!("checked c{check}: "), CHECK).map(Some)
        })?;
        let found = line.rsplit("checked ").next().unwrap_or(&line);
        ensure!(
            found == format!("c{}: all there up to {}", self.checks, self.flushed),
            "{} blocks were flushed, but the guest says: {found}",
            self.flushed
        );
        Ok(())
    }

    /// Waits until the guest has flushed at least one block more than is known.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_progress(&mut self) -> Result<()> {
        let before = self.flushed;
        wait::until("another flushed block", CHECK, || {
            self.listen()?;
            Ok((self.flushed > before).then_some(()))
        })
        .with_context(|| format!("{} does not write", self.id))
    }
}

/// Of a whole line `flushed N N`.
fn flushed_number(line: &str) -> Option<u64> {
    let (number, again) = line.strip_prefix("flushed ")?.split_once(' ')?;
    (number == again).then(|| number.parse().ok()).flatten()
}
