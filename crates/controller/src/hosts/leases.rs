//! Marks hosts that stay silent as lost, and keeps the store small.

use crate::{cloud::Cloud, timestamp::now_ms};
use std::time::Duration;

/// Revisions the change feed keeps.
const KEPT_REVISIONS: u64 = 100_000;
/// Client tokens are kept for a day.
const TOKEN_LIFE_MS: i64 = 24 * 60 * 60 * 1000;
const COMPACT_EVERY_MS: i64 = 10 * 60 * 1000;
/// Life of the housekeeper's own lease. It is renewed when half of it is over, since each renewal
/// is a write to the medium.
const HOUSEKEEPING_MS: i64 = 15_000;

/// The one controller that does the work.
struct Housekeeper {
    cloud: Cloud,
    name: String,
    lease_until_ms: i64,
    compacted_ms: i64,
}

/// Runs until the process ends. Only one controller at a time does the work.
pub(crate) async fn watch_leases(cloud: Cloud) {
    let period = (cloud.options.lease / 4).clamp(Duration::from_millis(50), Duration::from_secs(1));
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let name = uuid::Uuid::new_v4().to_string();
    let mut housekeeper = Housekeeper { cloud, name, lease_until_ms: 0, compacted_ms: 0 };
    loop {
        tick.tick().await;
        if let Err(error) = housekeeper.round().await {
            tracing::warn!(%error, "host leases could not be checked; trying again");
        }
    }
}

impl Housekeeper {
    async fn round(&mut self) -> Result<(), store::StoreError> {
        let (store, now) = (&self.cloud.store, now_ms());
        if now > self.lease_until_ms - HOUSEKEEPING_MS / 2 {
            let until = now + HOUSEKEEPING_MS;
            if store.acquire_lease("housekeeping", &self.name, now, until).await?.is_none() {
                return Ok(());
            }
            self.lease_until_ms = until;
        }
        for host_id in store.expire_hosts(now).await? {
            tracing::warn!(host_id, "host has not renewed its lease and is lost");
        }
        if now > self.compacted_ms + COMPACT_EVERY_MS {
            store.compact(KEPT_REVISIONS, now - TOKEN_LIFE_MS).await?;
            self.cloud.images.remove_stray(&**store).await;
            self.compacted_ms = now;
        }
        Ok(())
    }
}
