//! A lab whose host is this machine: what its agent makes here, and how all of it goes away.

use super::layout::{HostPaths, Kind, Layout};
use crate::error::{Error, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// What a VMM has to end itself in; it closes its disks.
const GRACE: Duration = Duration::from_secs(10);

/// Stops what the agent, which is stopped already, has left running, and removes what goes with it.
/// Disks stay, as they do when a machine is switched off.
pub(super) fn clear(layout: &Layout) -> Result<()> {
    remove(&HostPaths::of(layout, Kind::Native))
}

fn remove(paths: &HostPaths) -> Result<()> {
    stop_vmms(&paths.run)?;
    for name in names(&paths.netns)? {
        let path = paths.netns.join(name);
        // More than one mount may lie on the file.
        while umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        fs::remove_file(&path).map_err(Error::file("remove", &path))?;
    }
    for name in names(&paths.cgroup)? {
        let path = paths.cgroup.join(name);
        if path.is_dir() {
            remove_cgroup(&path)?;
        }
    }
    remove_cgroup(&paths.cgroup)?;
    match fs::remove_dir_all(&paths.run) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", &paths.run)(e)),
        _ => Ok(()),
    }
}

/// The VMMs first, so that their keepers can note how they ended; then what is left of either.
fn stop_vmms(run: &Path) -> Result<()> {
    let vmms = run.join("vmm");
    let send = |signal, keepers: bool| -> Result<usize> {
        let found: Vec<_> = processes(&vmms)?.into_iter().filter(|p| keepers || !p.1).collect();
        for (pid, _) in &found {
            match kill(*pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => {
                    return Err(Error::io(format!("cannot stop process {pid}"))(e.into()));
                }
            }
        }
        Ok(found.len())
    };
    if send(Signal::SIGTERM, false)? == 0 && processes(&vmms)?.is_empty() {
        return Ok(());
    }
    let end = Instant::now() + GRACE;
    while !processes(&vmms)?.is_empty() {
        if Instant::now() > end {
            send(Signal::SIGKILL, true)?;
        }
        if Instant::now() > end + GRACE {
            return Err(Error::Local(format!(
                "processes of {} do not end: {:?}",
                vmms.display(),
                processes(&vmms)?
            )));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// VMMs and keepers (`true`) whose machine description is below `vmms`, as the agent finds them too.
fn processes(vmms: &Path) -> Result<Vec<(Pid, bool)>> {
    let proc = Path::new("/proc");
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).map_err(Error::file("list", proc))? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Gone again, or a kernel thread.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        if let Some(keeper) = is_of(vmms, &line) {
            found.push((Pid::from_raw(pid), keeper));
        }
    }
    Ok(found)
}

/// Whether a command line is a keeper's (`true`) or a VMM's of this lab.
fn is_of(vmms: &Path, line: &[u8]) -> Option<bool> {
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let keeper = match words.get(1)?.as_ref() {
        "keep-vmm" => true,
        "run" => false,
        _ => return None,
    };
    let config = words.iter().skip_while(|word| *word != "--config").nth(1)?;
    Path::new(config.as_ref()).starts_with(vmms).then_some(keeper)
}

/// The names in a folder; none if there is no such folder.
fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()
            .map_err(Error::file("list", folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::file("list", folder)(e)),
    }
}

/// A cgroup goes only when its last process has been reaped, which is not at once.
fn remove_cgroup(path: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(50)),
            Err(e) => return Err(Error::file("remove", path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::process::CommandExt as _,
        process::{Child, Command},
    };

    /// A process whose command line is `program action --config CONFIG`.
    fn pretend(folder: &Path, program: &str, action: &str, config: &Path) -> Child {
        fs::write(folder.join(action), "sleep 60; :\n").unwrap();
        Command::new("sh")
            .arg0(program)
            .args([action, "--config"])
            .arg(config)
            .current_dir(folder)
            .spawn()
            .unwrap()
    }

    #[test]
    fn only_the_vmms_and_keepers_of_this_lab_are_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (folder.path().join("ours"), folder.path().join("other"));
        let config = |run: &Path| run.join("vmm/i-1/config.json");
        let mut vmm = pretend(folder.path(), "ecs-vmm", "run", &config(&ours));
        let mut keeper = pretend(folder.path(), "ecs-agent", "keep-vmm", &config(&ours));
        let mut stranger = pretend(folder.path(), "ecs-vmm", "run", &config(&other));
        let end = Instant::now() + Duration::from_secs(5);
        while processes(&ours.join("vmm")).unwrap().len() < 2 && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        // Its VMM gone, a keeper goes by itself.
        let waiter = thread::spawn(move || {
            let status = vmm.wait();
            keeper.kill().and_then(|()| keeper.wait()).and(status)
        });
        stop_vmms(&ours).unwrap();
        waiter.join().unwrap().unwrap();
        assert!(processes(&ours.join("vmm")).unwrap().is_empty());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().and_then(|()| stranger.wait()).unwrap();
    }

    #[test]
    fn what_an_agent_made_goes_and_its_disks_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let paths = HostPaths {
            state: at("agent"),
            run: at("run"),
            netns: at("run/netns"),
            cgroup: at("cgroup"),
            first_uid: 1,
        };
        for made in ["agent/disks", "run/netns", "run/vmm/i-1/root", "cgroup/i-1", "cgroup/i-2"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        fs::write(at("run/netns/ecs-7"), "").unwrap();
        fs::write(at("agent/disks/d-1.qcow2"), "").unwrap();
        remove(&paths).unwrap();
        assert_eq!(names(folder.path()).unwrap(), ["agent"]);
        assert!(at("agent/disks/d-1.qcow2").exists());
        // Nothing to remove is no error.
        remove(&paths).unwrap();
    }
}
