//! One registration and what goes on under it, until something breaks; then again.

use super::{RegistryClient, report, spec_cache};
use crate::{
    error::{Error, Result},
    host::Host,
};
use api::host::{HeartbeatRequest, HostSpec, RegisterHostRequest, WatchHostSpecRequest};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Calls that are answered at once by a healthy controller.
const CALL: Duration = Duration::from_secs(15);
/// A session shorter than this was no success: what ended it would end the next one as quickly.
const LASTING: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Changes that come together go in one report.
const SETTLE: Duration = Duration::from_millis(20);

/// How this host presents itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What it registers with, but for its storage pools as they are then.
    pub registration: RegisterHostRequest,
}

/// Keeps the host registered for as long as the agent lives.
pub async fn run(host: Arc<Host>, client: RegistryClient, identity: Identity) {
    let mut pause = BACKOFF_FIRST / 2;
    let mut said = String::new();
    loop {
        let mut registered = None;
        let ended = session(&host, &client, &identity, &mut registered).await;
        let lasted = registered.map(|since: Instant| since.elapsed()).unwrap_or_default();
        if lasted >= LASTING {
            said.clear();
        }
        pause = next_pause(pause, lasted);
        if let Err(e) = ended {
            let message = e.to_string();
            if message != said {
                tracing::warn!("{message}; going on with the last spec, trying again");
                said = message;
            }
        }
        // Hosts that lost one controller at once do not come back at once.
        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

/// The pause after a session that lasted so long; `before`: the one before it.
fn next_pause(before: Duration, lasted: Duration) -> Duration {
    if lasted >= LASTING { BACKOFF_FIRST } else { (before * 2).min(BACKOFF_MAX) }
}

async fn session(
    host: &Arc<Host>,
    client: &RegistryClient,
    identity: &Identity,
    registered: &mut Option<Instant>,
) -> Result<()> {
    let pools = host.disks.report_pools();
    let named: Vec<String> = pools.iter().map(|pool| pool.pool_id.clone()).collect();
    let request = RegisterHostRequest { pools, ..identity.registration.clone() };
    let answer = timeout(CALL, client.clone().register_host(request)).await.map_err(silent)??;
    let answer = answer.into_inner();
    *registered = Some(Instant::now());
    let host_id = identity.registration.host_id.as_str();
    tracing::info!(host_id, session = answer.session, "registered");
    tokio::select! {
        ended = renew(client.clone(), host_id, answer.session, answer.lease_seconds) => ended,
        ended = watch(host, client.clone(), host_id, answer.session) => ended,
        ended = tell(host, client.clone(), host_id, answer.session, &named) => ended,
    }
}

async fn renew(
    mut client: RegistryClient,
    host_id: &str,
    session: u64,
    mut lease_seconds: u64,
) -> Result<()> {
    loop {
        // Twice missed is still in time.
        sleep(Duration::from_millis(lease_seconds.clamp(1, 3600).saturating_mul(1000) / 3)).await;
        let request = HeartbeatRequest { host_id: host_id.to_owned(), session };
        let answer = timeout(CALL, client.heartbeat(request)).await.map_err(silent)??;
        lease_seconds = answer.into_inner().lease_seconds;
    }
}

async fn watch(
    host: &Arc<Host>,
    mut client: RegistryClient,
    host_id: &str,
    session: u64,
) -> Result<()> {
    let request = WatchHostSpecRequest { host_id: host_id.to_owned(), session };
    let mut specs = client.watch_host_spec(request).await?.into_inner();
    while let Some(spec) = specs.message().await? {
        take(host, host_id, spec)?;
    }
    Err(Error::Controller(tonic::Status::unavailable("the spec stream ended")))
}

/// On disk first, then in force: what was followed once is known after a restart.
fn take(host: &Host, host_id: &str, spec: HostSpec) -> Result<()> {
    let old = host.current_spec();
    spec_cache::accept(host_id, old.as_deref(), &spec)?;
    if old.as_deref() == Some(&spec) {
        return Ok(());
    }
    spec_cache::save(&host.layout, &spec)?;
    host.spec.send_replace(Some(Arc::new(spec)));
    Ok(())
}

async fn tell(
    host: &Arc<Host>,
    mut client: RegistryClient,
    host_id: &str,
    session: u64,
    pools: &[String],
) -> Result<()> {
    loop {
        if let Some(status) = report::compose(host, host_id, session) {
            if !status.pools.iter().map(|pool| &pool.pool_id).eq(pools) {
                return Err(Error::Configuration(
                    "a storage pool was seen for the first time; registering again".to_owned(),
                ));
            }
            let answer = timeout(CALL, client.report_status(status)).await.map_err(silent)??;
            host.events.acknowledge(answer.into_inner().acknowledged_event)?;
        }
        tokio::select! {
            () = host.board.changed() => sleep(SETTLE).await,
            () = sleep(REPORT_EVERY) => {}
        }
    }
}

fn silent(_: tokio::time::error::Elapsed) -> Error {
    let message = format!("no answer within {} s", CALL.as_secs());
    Error::Controller(tonic::Status::deadline_exceeded(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_end_at_once_come_further_and_further_apart() {
        let mut pause = BACKOFF_FIRST / 2;
        let pauses: Vec<Duration> = (0..8)
            .map(|_| {
                pause = next_pause(pause, Duration::from_millis(100));
                pause
            })
            .collect();
        assert_eq!(
            (pauses[0], pauses[1], pauses[7]),
            (BACKOFF_FIRST, BACKOFF_FIRST * 2, BACKOFF_MAX)
        );
        assert_eq!(next_pause(BACKOFF_MAX, LASTING), BACKOFF_FIRST);
    }
}
