//! Networks that somebody else changes.

use crate::fixture::Host;
use std::time::Duration;

pub async fn networks_changed_by_hand_are_put_right_and_told_of() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    // One more look, after which a change is nobody's wish.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let told = |h: &Host| {
        h.seen(|seen| {
            let repaired = |kind: &str| kind == "Network.Repaired";
            let mut events = seen.events.iter().filter(|event| repaired(&event.r#type));
            events.next_back().map(|event| (event.resource_id.clone(), event.message.clone()))
        })
    };
    assert_eq!(told(&host), None);
    host.in_vpc(&["nft", "flush", "ruleset"]);
    let (resource, message) = host.until("a repair to be told of", told).await;
    let own = host.seen(|seen| seen.status.host_id.clone());
    assert_eq!(resource, own);
    assert!(message.contains("packet filter of vpc-"), "{message}");
    assert!(host.in_vpc(&["nft", "list", "ruleset"]).contains("chain forward"));
    let revision = host.delete("i-1");
    host.until_nothing_is_left(revision).await;
}
