//! One version-2 cgroup per instance, so that neither a VMM nor its page cache harms its neighbours.

use crate::{
    error::{Error, FileContext as _, Result},
    layout::names_in,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Beyond guest memory: the VMM itself, page tables, kernel buffers, page cache.
const OVERHEAD_MIB: u64 = 128;
const OVERHEAD_SHARE: u64 = 32;
/// Keeper, VMM and its threads: one per vCPU and per queue.
const TASKS_MAX: u32 = 1024;

/// What one instance may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Guest memory.
    pub memory_mib: u64,
    /// vCPUs, which weigh against those of the neighbours.
    pub vcpus: u32,
}

/// The cgroups of all instances of this host.
#[derive(Debug)]
pub struct Cgroups {
    parent: PathBuf,
}

impl Cgroups {
    /// Finds the version-2 hierarchy and prepares our part of it, `parent`. A controller that cannot
    /// be had, as on hosts that use both versions, is said once.
    ///
    /// # Errors
    /// When there is no such hierarchy: nothing would hold an instance's processes together.
    pub fn open(parent: &Path) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = cgroup2_mount(&mounts).ok_or_else(|| {
            Error::Configuration(
                "this host has no cgroup v2 mount, so instances could not be limited; boot it with \
                 systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup"
                    .into(),
            )
        })?;
        Self::under(&mount, parent)
    }

    fn under(mount: &Path, parent: &Path) -> Result<Self> {
        let parent = mount.join(parent.strip_prefix("/").unwrap_or(parent));
        fs::create_dir_all(&parent).at("create", &parent)?;
        for controller in ["memory", "pids", "cpu"] {
            for dir in [mount, &parent] {
                let enabled =
                    fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
                if let Err(e) = enabled {
                    tracing::warn!(
                        "cannot enable the {controller} controller in {}: {e}: instances run \
                         without that limit",
                        dir.display()
                    );
                    break;
                }
            }
        }
        Ok(Self { parent })
    }

    /// Makes the instance's cgroup with its limits.
    ///
    /// # Errors
    /// When it cannot be made, or a limit not set.
    pub fn prepare(&self, instance_id: &str, limits: Limits) -> Result<PathBuf> {
        let dir = self.path(instance_id);
        fs::create_dir_all(&dir).at("create", &dir)?;
        for (file, value) in limits.files() {
            let path = dir.join(file);
            // Absent where the controller could not be enabled, which was said at the start.
            if path.exists() {
                fs::write(&path, &value).at("set the limit", &path)?;
            }
        }
        Ok(dir)
    }

    /// Removes the instance's cgroup. What still runs in it is killed.
    ///
    /// # Errors
    /// When it stays busy.
    pub async fn remove(&self, instance_id: &str) -> Result<()> {
        let dir = self.path(instance_id);
        if !dir.exists() {
            return Ok(());
        }
        let mut last = None;
        for _ in 0..100 {
            match fs::remove_dir(&dir) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(e) => last = Some(e),
            }
            // Only on kernels since 5.14; without it the processes end by the agent's own signal.
            let _ = fs::write(dir.join("cgroup.kill"), "1");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match last {
            Some(source) => Err(Error::File { action: "remove", path: dir, source }),
            None => Ok(()),
        }
    }

    /// The instances that have a cgroup.
    ///
    /// # Errors
    /// When the hierarchy cannot be read.
    pub fn list(&self) -> Result<Vec<String>> {
        let names = names_in(&self.parent)?;
        Ok(names.into_iter().filter(|name| self.path(name).is_dir()).collect())
    }

    /// The path of an instance's cgroup.
    pub fn path(&self, instance_id: &str) -> PathBuf {
        self.parent.join(instance_id)
    }
}

impl Limits {
    fn files(self) -> [(&'static str, String); 4] {
        let overhead = OVERHEAD_MIB + self.memory_mib / OVERHEAD_SHARE;
        let memory = self.memory_mib.saturating_add(overhead).saturating_mul(1 << 20);
        // 100 is the kernel's default for one; its range is 1..=10000.
        let weight = u64::from(self.vcpus).saturating_mul(100).clamp(100, 10_000);
        [
            ("memory.max", memory.to_string()),
            ("memory.swap.max", "0".into()),
            ("pids.max", TASKS_MAX.to_string()),
            ("cpu.weight", weight.to_string()),
        ]
    }
}

fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, source) = line.split_once(" - ")?;
        let mount = fields.split(' ').nth(4)?;
        source.starts_with("cgroup2 ").then(|| PathBuf::from(mount))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_2_mount_is_found_in_unified_and_hybrid_hosts() {
        let hybrid = "31 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      32 31 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate";
        assert_eq!(cgroup2_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("31 23 0:27 / /x ro - cgroup cgroup ro"), None);
    }

    #[test]
    fn limits_leave_room_beyond_guest_memory() {
        let files = Limits { memory_mib: 1024, vcpus: 2 }.files();
        let memory: u64 = files[0].1.parse().unwrap();
        assert_eq!(memory, (1024 + 128 + 32) << 20);
        assert_eq!(files[3].1, "200");
    }

    #[tokio::test]
    async fn a_cgroup_directory_is_made_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::under(dir.path(), Path::new("/ecs")).unwrap();
        let path = cgroups.prepare("i-1", Limits { memory_mib: 64, vcpus: 1 }).unwrap();
        assert!(path.is_dir());
        assert_eq!(cgroups.list().unwrap(), ["i-1"]);
        cgroups.remove("i-1").await.unwrap();
        cgroups.remove("i-1").await.unwrap();
        assert!(cgroups.list().unwrap().is_empty());
    }
}
