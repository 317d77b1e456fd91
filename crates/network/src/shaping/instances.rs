//! Rates of instances.

use super::rate;
use crate::{
    Error,
    changes::Changes,
    names,
    netlink::{Link, Netlink, Rate, Shown, Way},
    plan::Vpc,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const OUT_PREFIX: &str = "qo";
const IN_PREFIX: &str = "qi";

/// What was set, and how the kernel showed it then. Losing it costs setting the same again.
#[derive(Debug, Default)]
pub(crate) struct Shapers {
    set: HashMap<u32, (Rate, Vec<u8>)>,
}

/// Whether an interface is one of those that instances' packets make a detour by.
pub(crate) fn is_queue_link(name: &str) -> bool {
    [OUT_PREFIX, IN_PREFIX].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|hex| hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

impl Shapers {
    /// Makes rates as the VPC's instances should have them. A rate is there before anything is sent
    /// by way of it.
    pub(crate) async fn ensure(
        &mut self,
        vpc: &Vpc,
        taps: &HashMap<&str, u32>,
        netlink: &Netlink,
        links: &[Link],
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let mut queues = netlink.queues().await?;
        let limited = vpc.limits.iter().filter(|limit| limit.kbits > 0);
        let mut detours: BTreeMap<u32, [(Way, u32); 2]> = BTreeMap::new();
        let mut kept: BTreeSet<u32> = BTreeSet::new();
        let mut news = false;
        for limit in limited {
            let rate = rate(limit.kbits, limit.burst_kbits);
            let id = &limit.instance;
            let mut by = [(Way::In, 0), (Way::Out, 0)];
            for ((_, index), prefix) in by.iter_mut().zip([OUT_PREFIX, IN_PREFIX]) {
                let name = names::hashed(prefix, id);
                *index = queue_link(netlink, links, &name, id, changes).await?;
                kept.insert(*index);
                let shown = queues.iter().find(|q| q.link == *index && q.is_root());
                let same = self.set.get(index).zip(shown).is_some_and(|((set, was), shown)| {
                    *set == rate && shown.kind == "tbf" && shown.options == *was
                });
                if !same {
                    netlink.set_rate(*index, &rate).await?;
                    self.set.insert(*index, (rate, Vec::new()));
                    changes.add(id, "network bandwidth");
                    news = true;
                }
            }
            for tap in &limit.taps {
                if let Some(tap) = taps.get(tap.as_str()) {
                    detours.insert(*tap, by);
                }
            }
        }
        for (tap, link) in taps {
            let place = queues.iter().find(|q| q.link == *link && q.kind == "clsact");
            let wanted = detours.get(link);
            send(netlink, *link, place, wanted, || changes.add(&vpc.id, format!("way of {tap}")))
                .await?;
        }
        for link in links.iter().filter(|link| is_queue_link(&link.name)) {
            if !kept.contains(&link.index) {
                netlink.delete_link(link).await?;
                changes.add(&link.alias, "network bandwidth");
            }
        }
        if news {
            queues = netlink.queues().await?;
        }
        self.set.retain(|index, (_, was)| {
            if let Some(shown) = queues.iter().find(|q| q.link == *index && q.is_root())
                && was.is_empty()
            {
                was.clone_from(&shown.options);
            }
            kept.contains(index)
        });
        Ok(())
    }
}

/// Makes the detours of one tap as they should be.
async fn send(
    netlink: &Netlink,
    tap: u32,
    place: Option<&Shown>,
    wanted: Option<&[(Way, u32); 2]>,
    changed: impl FnOnce(),
) -> Result<(), Error> {
    let Some(wanted) = wanted else {
        if let Some(place) = place {
            netlink.delete_queue(place).await?;
            changed();
        }
        return Ok(());
    };
    let mut right = place.is_some();
    let all = BTreeSet::from(wanted.map(|(_, by)| by));
    for (way, _) in wanted {
        right = right && BTreeSet::from_iter(netlink.detours(tap, *way).await?) == all;
    }
    if right {
        return Ok(());
    }
    // Its filters go with it.
    if let Some(place) = place {
        netlink.delete_queue(place).await?;
    }
    netlink.add_detours(tap).await?;
    for (way, by) in wanted {
        netlink.set_detour(tap, *way, *by).await?;
    }
    changed();
    Ok(())
}

/// The interface of this name, made and brought up if need be. Gives its index.
async fn queue_link(
    netlink: &Netlink,
    links: &[Link],
    name: &str,
    instance: &str,
    changes: &mut Changes,
) -> Result<u32, Error> {
    let made;
    let link = match links.iter().find(|link| link.name == name) {
        Some(link) => link,
        None => {
            netlink.add_ifb(name).await?;
            changes.add(instance, format!("interface {name}"));
            made = netlink.links().await?;
            made.iter().find(|link| link.name == name).ok_or_else(|| Error::Netlink {
                what: format!("find {name}"),
                message: "it was removed as it was made".to_owned(),
            })?
        }
    };
    if !link.up || link.alias != instance {
        netlink.set_link(link.index, instance, None).await?;
        changes.add(instance, format!("settings of {name}"));
    }
    Ok(link.index)
}
