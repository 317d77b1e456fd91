//! Where everything of this host is. Every name comes from an ECS id, so what is on the host can be
//! listed and matched with the spec.

use crate::error::{Error, FileContext as _, Result};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// The agent's directories: one that survives a reboot of the host, one that does not.
#[derive(Debug, Clone)]
pub struct Layout {
    state: PathBuf,
    run: PathBuf,
    /// Where disks and layers are.
    pool: PathBuf,
}

impl Layout {
    /// Over the given directories, which need not exist yet.
    pub fn new(state: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        let state = state.into();
        Self { pool: state.clone(), state, run: run.into() }
    }

    /// The same host, with disks and layers in another directory.
    pub fn in_pool(&self, pool: impl Into<PathBuf>) -> Self {
        Self { pool: pool.into(), ..self.clone() }
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create(&self) -> Result<()> {
        for dir in [self.images(), self.disks(), self.layers(), self.instances(), self.vmm()] {
            make_dir(&dir, 0o711)?;
        }
        Ok(())
    }

    /// The durable directory.
    pub fn state(&self) -> &Path {
        &self.state
    }
    /// Held by the one agent that works here.
    pub fn agent_lock(&self) -> PathBuf {
        self.state.join("agent.lock")
    }
    /// This host's stable id.
    pub fn host_id(&self) -> PathBuf {
        self.state.join("host-id")
    }
    /// The latest spec the controller sent.
    pub fn spec(&self) -> PathBuf {
        self.state.join("spec.pb")
    }
    /// Events the controller has not acknowledged.
    pub fn events(&self) -> PathBuf {
        self.state.join("events.json")
    }
    /// Image copies.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }
    /// One image copy, complete and verified.
    pub fn image(&self, id: &str) -> PathBuf {
        self.images().join(id)
    }
    /// One image copy while it is being fetched.
    pub fn image_part(&self, id: &str) -> PathBuf {
        self.images().join(format!("{id}.part"))
    }
    /// What is remembered of the storage pools.
    pub fn pools(&self) -> PathBuf {
        self.state.join("pools.json")
    }
    /// Disks.
    pub fn disks(&self) -> PathBuf {
        self.pool.join("disks")
    }
    /// One disk.
    pub fn disk(&self, id: &str) -> PathBuf {
        self.disks().join(format!("{id}.qcow2"))
    }
    /// A disk's next top, until it takes the place of the present one.
    pub fn next_top(&self, id: &str) -> PathBuf {
        self.disks().join(format!("{id}.next"))
    }
    /// Layers frozen by snapshots.
    pub fn layers(&self) -> PathBuf {
        self.pool.join("layers")
    }
    /// One frozen layer.
    pub fn layer(&self, id: &str) -> PathBuf {
        self.layers().join(format!("{id}.qcow2"))
    }
    /// What lies on what.
    pub fn layering(&self) -> PathBuf {
        self.pool.join("layers.json")
    }
    /// Which disks were made once, in an older agent's account.
    pub fn made_disks(&self) -> PathBuf {
        self.pool.join("made-disks.json")
    }
    /// Instance records and logs.
    pub fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }
    /// What is kept of one instance.
    pub fn instance(&self, id: &str) -> PathBuf {
        self.instances().join(id)
    }
    /// The instance's record.
    pub fn record(&self, id: &str) -> PathBuf {
        self.instance(id).join("record.json")
    }
    /// Locked for as long as a VMM of the instance lives.
    pub fn vmm_lock(&self, id: &str) -> PathBuf {
        self.instance(id).join("lock")
    }
    /// What the guest's first UART printed.
    pub fn console_log(&self, id: &str) -> PathBuf {
        self.instance(id).join("console.log")
    }
    /// What the VMM process itself printed.
    pub fn vmm_log(&self, id: &str) -> PathBuf {
        self.instance(id).join("vmm.log")
    }
    /// Run directories of all VMMs.
    pub fn vmm(&self) -> PathBuf {
        self.run.join("vmm")
    }
    /// Run directory of one VMM.
    pub fn vmm_dir(&self, id: &str) -> PathBuf {
        self.vmm().join(id)
    }
    /// The machine description. Its path is in the command line of the VMM and its keeper, which is
    /// how they are found in `/proc`.
    pub fn vmm_config(&self, id: &str) -> PathBuf {
        self.vmm_dir(id).join("config.json")
    }
    /// Control socket.
    pub fn control_socket(&self, id: &str) -> PathBuf {
        self.vmm_dir(id).join("control.sock")
    }
    /// Console socket.
    pub fn console_socket(&self, id: &str) -> PathBuf {
        self.vmm_dir(id).join("console.sock")
    }
    /// The VMM's root directory once its jail is closed.
    pub fn jail_root(&self, id: &str) -> PathBuf {
        self.vmm_dir(id).join("root")
    }
    /// Where the host's leases are wanted and told of.
    pub fn leases(&self) -> PathBuf {
        self.run.join("leases")
    }
    /// Which leases a VMM uses.
    pub fn vmm_leases(&self, id: &str) -> PathBuf {
        Self::leases_of_vmm(&self.vmm_dir(id))
    }
    /// The same, of a VMM's run directory.
    pub fn leases_of_vmm(vmm_dir: &Path) -> PathBuf {
        vmm_dir.join("leases")
    }
    /// How the last VMM ended, written by its keeper.
    pub fn exit_report(&self, id: &str) -> PathBuf {
        self.vmm_dir(id).join("exit.json")
    }
}

/// Whether `id` may become a file name: ids come from the controller and end up in paths.
pub fn is_safe_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 64
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Makes a directory and its parents.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).at("create", path)
}

/// The names in a directory; none if it does not exist.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::File { action: "list", path: dir.into(), source: e }),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.at("list", dir)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a file that may be gone already.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: path.into(), source: e })
        }
        _ => Ok(()),
    }
}

/// Removes a directory that may be gone already, with all in it.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: path.into(), source: e })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::is_safe_id;

    #[test]
    fn ids_that_could_leave_the_directory_are_refused() {
        assert!(is_safe_id("i-0123456789abcdef"));
        for bad in ["", ".", "..", "a/b", "../x", "-rf", "a.part", &"x".repeat(65)] {
            assert!(!is_safe_id(bad), "{bad}");
        }
    }
}
