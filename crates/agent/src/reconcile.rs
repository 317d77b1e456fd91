//! One pass over the host: owners, images, disks, networks, in that order; again with every change
//! of the spec, with every image that arrives, and every few seconds.

use crate::{error::Result, host::Host, instances::owners::Owners};
use api::host::{DiskStatus, HostSpec};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

const EVERY: Duration = Duration::from_secs(5);
const LEASES_EVERY: Duration = Duration::from_millis(250);

/// Reconciles until the agent ends. Does nothing before there is a spec: without one, nothing can be
/// told from what must go.
pub async fn run(host: Arc<Host>, arrived: Arc<Notify>) {
    let mut owners = Owners::default();
    let mut specs = host.spec.subscribe();
    loop {
        let spec = specs.borrow_and_update().clone();
        if let Some(spec) = spec
            && let Err(e) = pass(&host, &mut owners, &spec).await
        {
            tracing::error!("{e}; trying again in {} s", EVERY.as_secs());
        }
        tokio::select! {
            changed = specs.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = arrived.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn pass(host: &Arc<Host>, owners: &mut Owners, spec: &Arc<HostSpec>) -> Result<()> {
    owners.assign(host, spec)?;
    host.images.want(spec);
    if reconcile_disks(host, spec).await? {
        host.board.touch();
    }
    let clean = host.networks.reconcile(spec, &host.events).await;
    host.interfaces.follow(spec);
    host.applied.send_modify(|applied| {
        let observed = applied.revision;
        applied.revision = spec.revision;
        if clean {
            applied.networks_revision = spec.revision;
        }
        applied.passes += 1;
        if observed != spec.revision {
            host.board.touch();
        }
    });
    let leaving = |d: &DiskStatus| !spec.disks.iter().any(|wanted| wanted.disk_id == d.disk_id);
    if !host.disks.report(None).iter().any(leaving)
        && let Some(images) = host.disks.images()
    {
        host.images.drop_unused(spec, &images)?;
    }
    Ok(())
}

/// Reconciles the shared pools, each by itself: one whose file system does not answer holds up
/// nothing else.
pub async fn run_shared(host: Arc<Host>) {
    if host.disks.shared().is_empty() {
        return std::future::pending().await;
    }
    let lease_changes = watch::Sender::default();
    let pools = host.disks.shared().into_iter().map(|name| {
        work_on(Arc::clone(&host), name, host.spec.subscribe(), lease_changes.subscribe())
    });
    let pools: Vec<_> = pools.collect();
    tokio::join!(watch_leases(Arc::clone(&host), lease_changes), futures::future::join_all(pools));
}

async fn work_on(
    host: Arc<Host>,
    name: String,
    mut specs: watch::Receiver<Option<Arc<HostSpec>>>,
    mut leases: watch::Receiver<u64>,
) {
    let mut said = String::new();
    loop {
        leases.mark_unchanged();
        // Not kept borrowed while it is worked on: whoever has a new one waits for that.
        let spec = specs.borrow_and_update().clone();
        if let Some(spec) = spec {
            let (of_step, pool) = (Arc::clone(&host), name.clone());
            let work = move || {
                let (disks, images) = (&of_step.disks, &of_step.images);
                disks.work_shared(&pool, &spec, |id| images.why_not(id), &of_step.events)
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(changed)) => {
                    said.clear();
                    if changed {
                        host.board.touch();
                    }
                    // Instances may wait for a disk.
                    host.applied.send_modify(|applied| applied.passes += 1);
                }
                Ok(Err(e)) => {
                    let message = e.to_string();
                    if message != said {
                        tracing::error!(pool = name, "{message}; trying again");
                        said = message;
                    }
                }
                Err(e) => tracing::error!(pool = name, "a step was cut off: {e}"),
            }
        }
        tokio::select! {
            changed = specs.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = leases.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Sees to the lease keeper, and has the disks looked at again when a lease has changed hands.
async fn watch_leases(host: Arc<Host>, changes: watch::Sender<u64>) {
    let mut known = Vec::new();
    let mut said = String::new();
    loop {
        match host.disks.tend_leases(&host.settings.keeper_bin) {
            Ok(()) => said.clear(),
            Err(e) => {
                let message = e.to_string();
                if message != said {
                    tracing::error!("{message}; trying again");
                    said = message;
                }
            }
        }
        let now = host.disks.leases().fingerprint();
        if now != known {
            known = now;
            changes.send_modify(|changes| *changes += 1);
            host.board.touch();
        }
        tokio::time::sleep(LEASES_EVERY).await;
    }
}

async fn reconcile_disks(host: &Arc<Host>, spec: &Arc<HostSpec>) -> Result<bool> {
    let (host, spec) = (Arc::clone(host), Arc::clone(spec));
    let work = move || {
        let news = host.disks.refresh(&host.events)?;
        Ok(host.disks.reconcile(&spec, |id| host.images.why_not(id))? || news)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => {
            tracing::error!("the disk step was cut off: {e}");
            Ok(false)
        }
    }
}
