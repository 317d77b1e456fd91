//! An agent that is stopped for a while.

use crate::Cloud;
use anyhow::{Result, ensure};

/// The agent of lab-1, which does nothing until this is dropped, and so repairs nothing.
#[derive(Debug)]
pub struct Frozen<'a> {
    cloud: &'a Cloud,
    agent: String,
}

impl<'a> Frozen<'a> {
    /// Stops it.
    ///
    /// # Errors
    /// When there is not one agent.
    pub fn new(cloud: &'a Cloud) -> Result<Self> {
        // Of this lab's agent; the brackets keep pgrep from finding the shell it is in.
        let pattern =
            format!("[e]cs-agent --controller .*--state-dir {}( |$)", cloud.path("state")?);
        let agent = cloud.on_host("lab-1", &format!("pgrep -f '{pattern}'"))?;
        ensure!(agent.parse::<u32>().is_ok(), "not one agent: {agent:?}");
        cloud.on_host("lab-1", &format!("kill -STOP {agent}"))?;
        Ok(Self { cloud, agent })
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cloud.on_host("lab-1", &format!("kill -CONT {}", self.agent)) {
            eprintln!("the agent stays frozen: {error:#}");
        }
    }
}
