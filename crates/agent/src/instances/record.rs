//! What the agent remembers of one instance between its own lives: one JSON file, replaced as a
//! whole, written before the step it announces.

use crate::{
    durable_file,
    error::Result,
    layout::{Layout, make_dir},
};
use serde::{Deserialize, Serialize};

/// One instance's record. A field that an older agent did not write has its default: guests run on
/// through an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// ECS id.
    pub instance_id: String,
    /// Added to the base user id; stable for the instance's life.
    pub uid_slot: u32,
    /// Spec generation last acted on.
    pub generation: u64,
    /// Of the guest that runs or ran last, or is being started.
    pub boot_epoch: u64,
    /// Grows with every VMM started; tells two exits apart.
    pub launches: u64,
    /// Boot of the host in which the last VMM was started.
    pub host_boot_id: String,
    /// Milliseconds since 1970 at which the guest was started; 0: never.
    pub started_unix_ms: u64,
    /// VMMs started again after crashes, within this boot epoch.
    pub restarts: u32,
    /// Crashes that followed each other quickly.
    pub quick_crashes: u32,
    /// How far the instance is.
    pub phase: Phase,
    /// Set while the guest is being stopped.
    pub stopping: Option<Stopping>,
    /// Why the guest last ended on its own or could not be started, for people.
    pub last_exit: String,
    /// The same as a code; empty if it needs none.
    pub last_code: String,
    /// Disks that the last VMM had, or may have had; the first is its system disk.
    pub disks: Vec<String>,
    /// ENIs that the last VMM had, or may have had.
    pub enis: Vec<String>,
    /// A crash may have left the disks in disorder, and they have not been put in order since.
    pub disks_suspect: bool,
}

/// How far an instance is. `Launching` is written before a VMM is started, `Running` after it has
/// answered, the others after it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Phase {
    /// Never started.
    #[default]
    New,
    /// A VMM may or may not have been started.
    Launching,
    /// A VMM was seen running.
    Running,
    /// Stopped because the spec said so.
    Stopped,
    /// The guest switched itself off.
    GuestStopped,
    /// The guest asked for a reset, or the host went away under it: to be started again.
    Again {
        /// Not before, milliseconds since 1970.
        not_before_ms: u64,
    },
    /// Cannot be started in this boot epoch.
    Failed {
        /// ECS-like code.
        code: String,
        /// What is wrong and what to do.
        message: String,
    },
}

/// A stop under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stopping {
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// When the power button was last pressed.
    pub pressed_ms: Option<u64>,
    /// When the VMM was told to end.
    pub terminated_ms: Option<u64>,
    /// The agent ended the VMM by signal.
    pub killed: bool,
}

impl Record {
    /// Of an instance that is new on this host.
    pub fn new(instance_id: &str, uid_slot: u32) -> Self {
        Self { instance_id: instance_id.to_owned(), uid_slot, ..Self::default() }
    }

    /// Reads the instance's record; `None` if it has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(layout: &Layout, instance_id: &str) -> Result<Option<Self>> {
        durable_file::read_json(&layout.record(instance_id))
    }

    /// Writes the record to the medium.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then still there.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        make_dir(&layout.instance(&self.instance_id), 0o711)?;
        durable_file::write_json(&layout.record(&self.instance_id), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_older_agent_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("s"), dir.path().join("r"));
        let older = r#"{ "instance_id": "i-1", "boot_epoch": 7, "phase": { "is": "running" } }"#;
        make_dir(&layout.instance("i-1"), 0o711).unwrap();
        durable_file::write(&layout.record("i-1"), older.as_bytes()).unwrap();
        let record = Record::load(&layout, "i-1").unwrap().unwrap();
        assert_eq!((record.boot_epoch, record.phase), (7, Phase::Running));
    }
}
