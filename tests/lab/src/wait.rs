//! Waiting for what takes time, with a limit and a reason.

use anyhow::{Result, bail, ensure};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Guests are slow where the host's CPU is emulated.
pub const TINY_BOOT: Duration = Duration::from_secs(180);
/// The same of a whole Debian with cloud-init.
pub const DEBIAN_BOOT: Duration = Duration::from_secs(900);

/// Asks until the answer is `Ok(Some(...))`; the last thing heard is in the error.
///
/// # Errors
/// When it takes longer than `limit`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut last = "nothing yet".to_owned();
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        if Instant::now() > end {
            bail!("{what}: not so after {} s; last: {last}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Waits for a line on an instance's console.
///
/// # Errors
/// When it does not come; the end of the console is in the error.
pub fn for_console(cloud: &crate::Cloud, id: &str, text: &str, limit: Duration) -> Result<String> {
    let mut console = String::new();
    until(&format!("{text:?} on the console of {id}"), limit, || {
        console = cloud.console(id)?;
        Ok(console.contains(text).then(|| console.clone()))
    })
    .map_err(|error| {
        if console.trim().is_empty() {
            return error.context(crate::silent::describe(cloud, id));
        }
        let tail: Vec<_> = console.lines().rev().take(15).collect();
        error.context(tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    })
}

/// Types a command in the guest and waits for what it must print. The console shows what was typed
/// too, so the text must differ from the command.
///
/// # Errors
/// When it is not printed in a minute and a half.
pub fn in_guest(cloud: &crate::Cloud, id: &str, command: &str, prints: &str) -> Result<()> {
    ensure!(!command.contains(prints), "{command:?} would show {prints:?} by itself");
    cloud.type_in(id, &format!("{command}\n"))?;
    for_console(cloud, id, prints, Duration::from_secs(90)).map(drop)
}
