//! The program that guests of network tests run, `guest/prober.rs`.

use crate::{Cloud, Screen, cloud::root, wait};
use anyhow::{Context as _, Result, ensure};
use std::{env, fs, process::Command, time::Duration};

/// Where it is in a guest.
pub const PATH: &str = "/tmp/prober";
/// A TCP port that the guest must let in from [`PEOPLE`] when the prober is brought.
pub const PORT: u16 = 8001;
/// Ports of TCP and UDP that it answers on.
pub const PORTS: [u16; 4] = [8001, 8002, 8003, 8004];
/// Ports of UDP that rules open in turn, so that it is seen when they are in force.
pub const MARKERS: [u16; 2] = [9001, 9002];
/// An answer of the prober comes within this.
pub const ANSWER: Duration = Duration::from_secs(60);
/// Where tunnels come from, as security groups see it.
pub const PEOPLE: &str = "100.104.0.1";

/// Builds it: a program that needs no library, as tiny guests have none.
///
/// # Errors
/// When it does not build.
pub fn build() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("prober");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--edition", "2024", "-C", "opt-level=2", "-C", "panic=abort"])
        .args(["-C", "strip=symbols", "-C", "target-feature=+crt-static", "-o"])
        .arg(&program)
        .arg(root().join("tests/lab/guest/prober.rs"))
        .output()
        .context("cannot run rustc")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(fs::read(&program)?)
}

/// Brings the prober to a guest that has booted, by way of a tunnel.
///
/// # Errors
/// When it does not arrive.
pub fn bring(cloud: &Cloud, id: &str, program: &[u8]) -> Result<Screen> {
    let mut screen = Screen::of(cloud, id)?;
    // A tunnel ends when the guest has no more to say, so that nc must not be at the end of its input.
    screen.line(&format!(
        "stty -echo; mkfifo /tmp/quiet; nc -l -p {PORT} <>/tmp/quiet >{PATH}; chmod +x {PATH}; \
         echo \"stored $(wc -c <{PATH})\""
    ))?;
    wait::until("a tunnel that takes the prober", Duration::from_secs(60), || {
        let output = cloud.output(["tunnel", id, &PORT.to_string()], program)?;
        Ok(output.status.success().then_some(()))
    })?;
    screen.wait(&format!("stored {}", program.len()), Duration::from_secs(60))?;
    Ok(screen)
}

/// Starts it on the console, where it takes orders from now on.
///
/// # Errors
/// When it does not start.
pub fn start(screen: &mut Screen) -> Result<()> {
    screen.line(PATH)?;
    screen.wait("prober ready", Duration::from_secs(60)).map(drop)
}
