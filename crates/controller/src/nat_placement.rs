//! On which host a NAT gateway works. A call places it in its own transaction; this loop places those
//! that found no host, and moves those whose host is lost.
//!
//! Level-triggered: each round looks for gateways that are on no host or on a lost one. A host that
//! was only cut off keeps working on its gateway until its agent is back; the new host answers for the
//! gateway's addresses meanwhile, and the network around follows whoever answered last.

use crate::{cloud::Cloud, timestamp::now_ms};
use std::time::Duration;
use store::{
    EdgeLookup, EdgePlan, EdgeRecord, HostRecord, NatGatewayFilter, NatGatewayRecord, Page,
    StoreError,
};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(1);
/// Life of the lease under which is worked.
const LEASE_MS: i64 = 60_000;
/// Gateways of one look.
const LOOK: u32 = 100;

/// The host of its zone that has the fewest gateways.
pub(crate) fn choose(
    hosts: &[(HostRecord, u64)],
    gateway: &NatGatewayRecord,
    now_ms: i64,
) -> Option<String> {
    hosts
        .iter()
        .filter(|(host, _)| host.zone_id == gateway.zone_id)
        .filter(|(host, _)| !host.lost && host.lease_until_ms >= now_ms)
        .min_by_key(|(host, gateways)| (*gateways, host.host_id.as_str()))
        .map(|(host, _)| host.host_id.clone())
}

/// How a gateway is, and why it does not work.
pub(crate) fn status(gateway: &NatGatewayRecord) -> (&'static str, String) {
    if gateway.host_id.is_empty() {
        let reason = format!("no host of zone {} is there; it waits for one", gateway.zone_id);
        return ("Creating", reason);
    }
    if gateway.host_lost {
        let reason = format!(
            "host {} has lost its lease, and zone {} has no other",
            gateway.host_id, gateway.zone_id
        );
        return ("Modifying", reason);
    }
    if gateway.settled {
        return ("Available", String::new());
    }
    ("Creating", format!("host {} has not acted on it yet", gateway.host_id))
}

/// Runs until the process ends. Only one controller at a time does the work.
pub(crate) async fn run(cloud: Cloud) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let name = uuid::Uuid::new_v4().to_string();
    loop {
        tick.tick().await;
        if let Err(error) = round(&cloud, &name, now_ms()).await {
            tracing::warn!(%error, "NAT gateways could not be placed; trying again");
        }
    }
}

/// Looks once. Without a gateway that can be placed nothing is written, not even the lease.
async fn round(cloud: &Cloud, name: &str, now: i64) -> Result<(), StoreError> {
    let store = &cloud.store;
    let mut misplaced = Vec::new();
    let mut position = None;
    loop {
        let filter = NatGatewayFilter { misplaced: true, ..NatGatewayFilter::default() };
        let listed = store.nat_gateways(filter, Page::After { position, limit: LOOK }).await?;
        misplaced.extend(listed.items);
        position = listed.next;
        if position.is_none() {
            break;
        }
    }
    if misplaced.is_empty() {
        return Ok(());
    }
    let hosts = store.edge(EdgeLookup { hosts: true, ..EdgeLookup::default() }).await?.hosts;
    misplaced.retain(|gateway| choose(&hosts, gateway, now).is_some());
    if misplaced.is_empty()
        || store.acquire_lease("nat-placement", name, now, now + LEASE_MS).await?.is_none()
    {
        return Ok(());
    }
    for gateway in misplaced {
        let id = gateway.nat_gateway_id;
        let lookup = EdgeLookup { hosts: true, ..EdgeLookup::of([&id]) };
        let decide = move |view: &store::EdgeView| {
            let mut plan = EdgePlan::default();
            let still = view.nat_gateway(&id).map(|(_, gateway)| gateway);
            let still = still.filter(|gateway| gateway.host_id.is_empty() || gateway.host_lost);
            let placed = still.and_then(|gateway| {
                let host_id = choose(&view.hosts, gateway, now)?;
                Some(NatGatewayRecord { host_id, ..gateway.clone() })
            });
            if let Some(gateway) = placed {
                tracing::info!(
                    nat_gateway_id = id,
                    host_id = gateway.host_id,
                    "NAT gateway gets a host"
                );
                plan.put.push(EdgeRecord::NatGateway(gateway));
            }
            Ok(plan)
        };
        store.change_edge(None, lookup, Box::new(decide)).await?;
    }
    Ok(())
}
