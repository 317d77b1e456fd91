//! One watch stream: the whole spec at once, then again after each change that concerns the host.

use super::build;
use crate::{
    cloud::Cloud,
    ecs_error::{from_store, refuse, to_status},
    ids,
};
use api::host::HostSpec;
use std::{collections::HashSet, time::Duration};
use store::{Change, HostSnapshot, Refusal, StoreError};
use tokio::sync::mpsc;
use tonic::Status;

/// Changes that come within this time become one spec.
const COALESCE: Duration = Duration::from_millis(10);

/// Starts the stream. It ends when the host registers anew, or the receiver is dropped.
pub(crate) fn watch(
    cloud: Cloud,
    host_id: String,
    session: u64,
) -> mpsc::Receiver<Result<HostSpec, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        if let Err(refusal) = publish(&cloud, &host_id, session, &sender).await {
            // The receiver may be gone already, and then nobody needs to know.
            let _ = sender.send(Err(to_status(&refusal, &ids::request()))).await;
        }
    });
    receiver
}

async fn publish(
    cloud: &Cloud,
    host_id: &str,
    session: u64,
    sender: &mpsc::Sender<Result<HostSpec, Status>>,
) -> Result<(), Refusal> {
    let mut revisions = cloud.store.revisions();
    loop {
        let snapshot = snapshot(cloud, host_id, session).await?;
        let concerns = Concerns::of(&snapshot);
        let mut through = snapshot.revision;
        if sender.send(Ok(build(&snapshot, &cloud.options))).await.is_err() {
            return Ok(());
        }
        loop {
            tokio::select! {
                () = sender.closed() => return Ok(()),
                grown = revisions.wait_for(|latest| *latest > through) => {
                    if grown.is_err() {
                        return Err(refuse(503, "ServiceUnavailable", "the controller is stopping"));
                    }
                }
            }
            match cloud.store.changes_after(through).await {
                Ok(stretch) => {
                    through = stretch.through;
                    if stretch.changes.iter().any(|change| concerns.include(change)) {
                        break;
                    }
                }
                Err(StoreError::Compacted { .. }) => break,
                Err(error) => return Err(from_store(error)),
            }
        }
        tokio::time::sleep(COALESCE).await;
    }
}

async fn snapshot(cloud: &Cloud, host_id: &str, session: u64) -> Result<HostSnapshot, Refusal> {
    let snapshot = cloud.store.host_snapshot(host_id).await.map_err(from_store)?;
    snapshot.filter(|snapshot| snapshot.host.session == session).ok_or_else(|| {
        from_store(StoreError::StaleSession { host_id: host_id.to_owned(), session })
    })
}

/// What a spec was made from: a change of any of it makes a new spec.
struct Concerns {
    host_id: String,
    ids: HashSet<String>,
}

impl Concerns {
    fn of(snapshot: &HostSnapshot) -> Self {
        let mut ids = HashSet::new();
        ids.extend(snapshot.vpcs.iter().map(|vpc| vpc.vpc_id.clone()));
        ids.extend(snapshot.groups.iter().map(|members| members.group.group_id.clone()));
        ids.extend(snapshot.prefix_lists.iter().map(|list| list.prefix_list_id.clone()));
        // Where a NAT gateway's host is.
        ids.extend(snapshot.gateway_hosts.iter().map(|host| host.host_id.clone()));
        ids.extend(snapshot.images.iter().map(|image| image.image_id.clone()));
        Self { host_id: snapshot.host.host_id.clone(), ids }
    }

    fn include(&self, change: &Change) -> bool {
        // What a host reports is in no spec.
        let reported = ["disk_status", "eni_status", "instance_status", "snapshot_status"]
            .contains(&change.kind.as_str());
        let of_host = change.host_id == self.host_id && !reported;
        of_host || self.ids.contains(&change.id)
    }
}
