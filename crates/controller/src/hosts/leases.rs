//! Marks hosts that stay silent as lost, and keeps the store small.

use crate::{cloud::Cloud, timestamp::now_ms};
use std::time::Duration;

/// Revisions the change feed keeps.
const KEPT_REVISIONS: u64 = 100_000;
/// Client tokens are kept for a day.
const TOKEN_LIFE_MS: i64 = 24 * 60 * 60 * 1000;
const COMPACT_EVERY: u32 = 600;

/// Runs until the process ends. Only one controller at a time does the work.
pub(crate) async fn watch_leases(cloud: Cloud) {
    let holder = uuid::Uuid::new_v4().to_string();
    let period = (cloud.options.lease / 4).clamp(Duration::from_millis(50), Duration::from_secs(1));
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds = 0_u32;
    loop {
        tick.tick().await;
        if let Err(error) = round(&cloud, &holder, rounds).await {
            tracing::warn!(%error, "host leases could not be checked; trying again");
        }
        rounds = rounds.wrapping_add(1);
    }
}

async fn round(cloud: &Cloud, holder: &str, rounds: u32) -> Result<(), store::StoreError> {
    let now = now_ms();
    let until = now + 5000;
    if cloud.store.acquire_lease("housekeeping", holder, now, until).await?.is_none() {
        return Ok(());
    }
    for host_id in cloud.store.expire_hosts(now).await? {
        tracing::warn!(host_id, "host has not renewed its lease and is lost");
    }
    if rounds.is_multiple_of(COMPACT_EVERY) {
        cloud.store.compact(KEPT_REVISIONS, now - TOKEN_LIFE_MS).await?;
        cloud.images.remove_unknown(&*cloud.store).await;
    }
    Ok(())
}
