//! `--wait` of network interfaces, EIPs and NAT gateways: until a host has acted on an order.

use crate::{
    error::{Error, Result},
    output::progress::Progress,
};
use clap::Args;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArguments {
    /// Come back only when it is so
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 300, requires = "wait")]
    timeout: u64,
}

/// How a resource is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// `InUse`, `Available`, ...
    pub(crate) status: String,
    /// Why, may be empty.
    pub(crate) reason: String,
}

/// Asks until a resource has the status, if `--wait` was given. A cloud that is away meanwhile is
/// asked again until the time is up.
pub(crate) async fn until(
    name: &str,
    status: &str,
    arguments: &WaitArguments,
    mut ask: impl AsyncFnMut() -> Result<Option<Standing>>,
) -> Result<()> {
    if !arguments.wait {
        return Ok(());
    }
    let progress = Progress::start(name, Duration::from_secs(arguments.timeout));
    loop {
        let said = match ask().await {
            Ok(Some(standing)) if standing.status == status => {
                progress.done(status);
                return Ok(());
            }
            Ok(Some(standing)) if standing.reason.is_empty() => standing.status,
            Ok(Some(standing)) => format!("{}: {}", standing.status, standing.reason),
            Ok(None) => return Err(Error::NotFound(format!("{name} is gone"))),
            Err(error) if error.is_transient() => {
                format!("the cloud does not answer ({error}); asking again")
            }
            Err(error) => return Err(error),
        };
        progress.set(&said);
        if progress.is_late() {
            progress.done(&said);
            return Err(Error::TimedOut(format!(
                "{name} is not {status} after {} s: {said}; --timeout waits longer",
                arguments.timeout
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(status: &str) -> Option<Standing> {
        Some(Standing { status: status.to_owned(), reason: String::new() })
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_status_or_with_the_resource_or_with_the_time() {
        let wait = WaitArguments { wait: true, timeout: 60 };
        let mut asked = 0;
        let done = until("EIP eip-1", "InUse", &wait, async || {
            asked += 1;
            Ok(standing(if asked < 2 { "Associating" } else { "InUse" }))
        });
        done.await.unwrap();
        let gone = until("EIP eip-1", "InUse", &wait, async || Ok(None)).await.unwrap_err();
        assert!(matches!(gone, Error::NotFound(_)), "{gone}");
        let short = WaitArguments { wait: true, timeout: 0 };
        let late = until("EIP eip-1", "InUse", &short, async || Ok(standing("Associating"))).await;
        assert!(late.unwrap_err().to_string().contains("Associating"));
        assert_eq!(asked, 2);
    }
}
