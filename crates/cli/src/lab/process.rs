//! Processes that outlive the command that starts them, and end when told.

use crate::error::{Error, Result};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// The process a pid file names, if it runs and is the one that wrote it: its command line has the
/// file's path, which no later process with the same number does.
pub(crate) fn running(pid_file: &Path) -> Option<Pid> {
    let number: i32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let line = fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let path = pid_file.as_os_str().as_encoded_bytes();
    line.windows(path.len()).any(|w| w == path).then(|| Pid::from_raw(number))
}

/// Asks the process of a pid file to end, waits, and ends it.
pub(crate) fn stop(pid_file: &Path, patience: Duration) -> Result<()> {
    if let Some(pid) = running(pid_file) {
        signal_to(pid, Signal::SIGTERM)?;
        if !gone_within(pid_file, patience) {
            signal_to(pid, Signal::SIGKILL)?;
            if !gone_within(pid_file, Duration::from_secs(10)) {
                return Err(Error::Local(format!("process {pid} does not end")));
            }
        }
    }
    match fs::remove_file(pid_file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", pid_file)(e))
        }
        _ => Ok(()),
    }
}

/// Whether the process of a pid file ends in time.
pub(crate) fn gone_within(pid_file: &Path, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while running(pid_file).is_some() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}

fn signal_to(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(Error::io(format!("cannot stop process {pid}"))(e.into())),
    }
}

/// Starts `command` under a supervisor of its own session that starts it again when it dies.
pub(crate) fn start_supervised(pid_file: &Path, log: &Path, command: &[String]) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::io("cannot find own executable"))?;
    let output =
        OpenOptions::new().create(true).append(true).open(log).map_err(Error::file("open", log))?;
    let errors = output.try_clone().map_err(Error::file("open", log))?;
    let mut supervisor = Command::new(program);
    supervisor
        .args(["lab", "supervise", "--pid-file"])
        .arg(pid_file)
        .arg("--")
        .args(command)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    // SAFETY: setsid is async-signal-safe and touches no memory of this process.
    unsafe {
        supervisor.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    supervisor.spawn().map_err(Error::io("cannot start a supervisor"))?;
    let end = Instant::now() + Duration::from_secs(5);
    while running(pid_file).is_none() {
        if Instant::now() > end {
            return Err(Error::Local(format!(
                "{} did not start; see {}",
                command[0],
                log.display()
            )));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A program that ends is started again after this long, so that a broken one does not spin.
const PAUSE: Duration = Duration::from_millis(500);
/// What a program has to end itself in.
const GRACE: Duration = Duration::from_secs(5);

/// Keeps `command` running until told to end. This is the supervisor's own process.
pub(crate) async fn supervise(pid_file: &Path, command: &[String]) -> Result<()> {
    let write = || fs::write(pid_file, std::process::id().to_string());
    write().map_err(Error::file("write", pid_file))?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(Error::io("cannot listen for signals"))?;
    let (program, arguments) =
        command.split_first().ok_or_else(|| Error::Local("nothing to supervise".to_owned()))?;
    loop {
        let started = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match started {
            Ok(mut child) => tokio::select! {
                _ = terminate.recv() => {
                    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                        signal_to(Pid::from_raw(pid), Signal::SIGTERM)?;
                    }
                    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                        let _ = child.kill().await;
                    }
                    let _ = fs::remove_file(pid_file);
                    return Ok(());
                }
                status = child.wait() => match status {
                    Ok(status) => eprintln!("supervisor: {program} ended ({status}), starting it again"),
                    Err(e) => eprintln!("supervisor: cannot wait for {program}: {e}"),
                },
            },
            Err(e) => eprintln!("supervisor: cannot start {program}: {e}"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = terminate.recv() => {
                let _ = fs::remove_file(pid_file);
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_of_another_process_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.pid");
        assert!(running(&file).is_none());
        fs::write(&file, "1").unwrap();
        assert!(running(&file).is_none(), "process 1 does not name the file");
        let mut child =
            Command::new("sh").args(["-c", "sleep 60; :", "x"]).arg(&file).spawn().unwrap();
        fs::write(&file, child.id().to_string()).unwrap();
        // A new process has its parent's command line until it has called exec.
        let end = Instant::now() + Duration::from_secs(5);
        while running(&file).is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(running(&file).is_some());
        let waiter = thread::spawn(move || child.wait());
        stop(&file, Duration::from_secs(5)).unwrap();
        waiter.join().unwrap().unwrap();
        assert!(!file.exists());
    }
}
