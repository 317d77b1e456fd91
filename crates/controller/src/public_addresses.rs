//! Which public addresses this cloud has, and which of them are free.

use crate::ecs_error::{invalid, refuse};
use ipnet::Ipv4Net;
use rand::Rng as _;
use std::{collections::BTreeSet, net::Ipv4Addr};
use store::Refusal;

/// Status of an EIP that nothing has.
pub(crate) const AVAILABLE: &str = "Available";

/// First and last address of a range that can be given away: not the range's own and its
/// broadcast address, where it is large enough to have them.
fn bounds(range: &Ipv4Net) -> (u32, u32) {
    let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
    if range.prefix_len() >= 31 { (first, last) } else { (first + 1, last - 1) }
}

fn no_ranges() -> Refusal {
    refuse(
        400,
        "InsufficientPublicIp",
        "this cloud has no public addresses; start ecs-controller with --eip-range CIDR, a range \
         that the network around its hosts routes to them",
    )
}

/// Refuses an address that is not one of the ranges', or is taken.
pub(crate) fn check(
    ranges: &[Ipv4Net],
    taken: &BTreeSet<Ipv4Addr>,
    address: Ipv4Addr,
) -> Result<(), Refusal> {
    if ranges.is_empty() {
        return Err(no_ranges());
    }
    let within =
        ranges.iter().map(bounds).any(|(first, last)| (first..=last).contains(&u32::from(address)));
    if !within {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        return Err(invalid(format!(
            "{address} is no public address of this cloud; those are {}",
            ranges.join(", ")
        )));
    }
    if taken.contains(&address) {
        return Err(refuse(
            400,
            "InvalidIpAddress.Duplicated",
            format!("public address {address} is in use; choose another"),
        ));
    }
    Ok(())
}

/// Free addresses. The search begins at random, so that one just released is not soon used again.
pub(crate) fn choose(
    ranges: &[Ipv4Net],
    taken: &BTreeSet<Ipv4Addr>,
    count: usize,
) -> Result<Vec<Ipv4Addr>, Refusal> {
    if ranges.is_empty() {
        return Err(no_ranges());
    }
    let all: u64 = ranges.iter().map(bounds).map(|(a, b)| u64::from(b - a) + 1).sum();
    let start = rand::rng().random_range(0..all);
    let mut chosen = Vec::with_capacity(count);
    for step in 0..all {
        if chosen.len() == count {
            break;
        }
        let mut place = (start + step) % all;
        for (first, last) in ranges.iter().map(bounds) {
            let size = u64::from(last - first) + 1;
            if place < size {
                let address = Ipv4Addr::from(first + place as u32);
                if !taken.contains(&address) && !chosen.contains(&address) {
                    chosen.push(address);
                }
                break;
            }
            place -= size;
        }
    }
    if chosen.len() == count {
        return Ok(chosen);
    }
    Err(refuse(
        400,
        "InsufficientPublicIp",
        format!(
            "{count} public addresses are needed, {} of this cloud's {all} are free; release EIPs, \
             or give ecs-controller one more --eip-range",
            chosen.len()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_given_once_and_then_none() {
        let ranges = ["203.0.113.0/29".parse().unwrap(), "198.51.100.7/32".parse().unwrap()];
        let mut taken = BTreeSet::new();
        for _ in 0..7 {
            let address = choose(&ranges, &taken, 1).unwrap()[0];
            check(&ranges, &taken, address).unwrap();
            assert!(taken.insert(address));
        }
        assert!(!taken.contains(&"203.0.113.0".parse().unwrap()));
        assert!(!taken.contains(&"203.0.113.7".parse().unwrap()));
        assert_eq!(choose(&ranges, &taken, 1).unwrap_err().code, "InsufficientPublicIp");
        let address = "198.51.100.7".parse().unwrap();
        let refusal = check(&ranges, &taken, address).unwrap_err();
        assert_eq!(refusal.code, "InvalidIpAddress.Duplicated");
        taken.remove(&address);
        assert_eq!(choose(&ranges, &taken, 1).unwrap(), [address]);
        assert!(choose(&ranges, &taken, 2).is_err());
    }

    #[test]
    fn without_ranges_the_refusal_says_what_to_do() {
        let refusal = choose(&[], &BTreeSet::new(), 1).unwrap_err();
        assert!(refusal.message.contains("--eip-range"));
        let stranger = "8.8.8.8".parse().unwrap();
        let ranges = ["203.0.113.0/29".parse().unwrap()];
        assert_eq!(
            check(&ranges, &BTreeSet::new(), stranger).unwrap_err().code,
            "InvalidParameter"
        );
    }
}
