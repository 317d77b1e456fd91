//! Rates of public addresses.

use super::rate;
use crate::{
    Error,
    changes::Changes,
    netlink::{Netlink, Rate},
    plan::Eip,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

/// Minor numbers of classes, 0 being that of the queue itself.
const CLASSES: u32 = 0xfff0;

/// The class of each address that has a limit. Others hardly ever change an address's number.
pub(crate) fn class_numbers(eips: &[Eip]) -> BTreeMap<Ipv4Addr, u16> {
    let limited: BTreeSet<Ipv4Addr> =
        eips.iter().filter(|eip| eip.mbps > 0).map(|eip| eip.address).collect();
    let mut taken = BTreeSet::new();
    limited
        .into_iter()
        .filter_map(|address| {
            let digest = Sha256::digest(address.octets());
            let start = u32::from(u16::from_be_bytes([digest[0], digest[1]])) % CLASSES;
            let mut free = (0..CLASSES).map(|step| (start + step) % CLASSES + 1);
            let number = free.find(|number| taken.insert(*number))?;
            Some((address, u16::try_from(number).ok()?))
        })
        .collect()
}

/// What was set on one interface, and how the kernel showed it then.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    set: HashMap<u16, (Rate, Vec<u8>)>,
    /// Another interface than the one before is shown with another index.
    link: u32,
}

impl Classes {
    /// Makes the classes of an interface those of these addresses. None need any: nothing is made.
    pub(crate) async fn ensure(
        &mut self,
        owner: &str,
        link: u32,
        eips: &[Eip],
        netlink: &Netlink,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let numbers = class_numbers(eips);
        let root = netlink.queues().await?.into_iter().find(|q| q.link == link && q.is_root());
        let classful = root.as_ref().is_some_and(|queue| queue.kind == "htb");
        if numbers.is_empty() {
            if let Some(root) = root.filter(|_| classful) {
                netlink.delete_queue(&root).await?;
                changes.add(owner, "bandwidth of public addresses");
            }
            self.set.clear();
            return Ok(());
        }
        if !classful || self.link != link {
            self.set.clear();
            self.link = link;
        }
        if !classful {
            netlink.set_classful(link).await?;
            changes.add(owner, "bandwidth of public addresses");
        }
        let mut shown: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for (number, class) in netlink.classes(link).await? {
            if numbers.values().any(|wanted| *wanted == number) {
                shown.insert(number, class.options);
            } else {
                netlink.delete_class(link, number).await?;
                changes.add(owner, "bandwidth of public addresses");
            }
        }
        self.set.retain(|number, _| shown.contains_key(number));
        let mut news = false;
        for (address, number) in &numbers {
            let mbps = eips.iter().find(|eip| eip.address == *address).map_or(0, |eip| eip.mbps);
            let rate = rate(u64::from(mbps) * 1000, 0);
            let same = self
                .set
                .get(number)
                .is_some_and(|(set, was)| *set == rate && shown.get(number) == Some(was));
            if !same {
                netlink.set_class(link, *number, &rate).await?;
                self.set.insert(*number, (rate, Vec::new()));
                changes.add(owner, format!("bandwidth of public address {address}"));
                news = true;
            }
        }
        if news {
            for (number, class) in netlink.classes(link).await? {
                if let Some((_, was)) = self.set.get_mut(&number) {
                    *was = class.options;
                }
            }
        }
        Ok(())
    }
}
