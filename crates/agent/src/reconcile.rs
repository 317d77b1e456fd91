//! One pass over the host: owners, images, disks, networks, in that order; again with every change
//! of the spec, with every image that arrives, and every few seconds.

use crate::{error::Result, host::Host, instances::owners::Owners};
use api::host::{DiskStatus, HostSpec};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

const EVERY: Duration = Duration::from_secs(5);

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
