//! Status of a network interface: the one place where it is derived, and the moves between states.
//!
//! What is wanted is the instance an interface is to be at; what a host said is the instance that has
//! it. Until the host has seen that an interface is to leave an instance, that instance counts as
//! having it, so an interface is never given to a second one too early. Primary interfaces come and
//! go with their instance and are InUse for all of its life.

mod limits;
mod transitions;

pub(crate) use limits::{
    MOST_DEVICES, MOST_LOOSE_IPV6, MOST_LOOSE_SECONDARY, check_addresses, check_count,
    check_devices, check_ipv6, check_queues,
};
pub use transitions::{EniSeat, attach, detach, expect_loose, set_free};
pub(crate) use transitions::{expect, expect_steady, place};

use store::EniRecord;

/// At no instance.
pub const AVAILABLE: &str = "Available";
/// Wanted at an instance that does not have it yet.
pub const ATTACHING: &str = "Attaching";
/// At its instance.
pub const IN_USE: &str = "InUse";
/// Not wanted at the instance that still has it.
pub const DETACHING: &str = "Detaching";

/// Every status there is.
pub const ALL: [&str; 4] = [AVAILABLE, ATTACHING, IN_USE, DETACHING];

/// The status that follows from what is wanted and what the host said.
pub fn derive(eni: &EniRecord) -> &'static str {
    match (eni.instance_id.as_str(), eni.reported.instance_id.as_str()) {
        ("", "") => AVAILABLE,
        ("", _) => DETACHING,
        (wanted, at) if eni.primary || wanted == at => IN_USE,
        _ => ATTACHING,
    }
}

/// Why the interface is in its state, and what ends it. Empty when there is nothing to say.
pub fn reason(eni: &EniRecord) -> String {
    match (eni.reported.code.as_str(), eni.reported.message.as_str()) {
        ("", "") => {}
        ("", said) | (said, "") => return said.to_owned(),
        (code, message) => return format!("{code}: {message}"),
    }
    match derive(eni) {
        ATTACHING => {
            format!("waiting for host {} to attach it to instance {}", eni.host_id, eni.instance_id)
        }
        DETACHING => format!(
            "waiting for the guest of instance {} to let go of it; take it down there, or stop the \
             instance",
            eni.reported.instance_id
        ),
        _ if !in_effect(eni) => {
            format!("waiting for host {} to act on its latest addresses and groups", eni.host_id)
        }
        _ => String::new(),
    }
}

/// Whether the host has acted on the latest addresses, groups and checks.
pub fn in_effect(eni: &EniRecord) -> bool {
    eni.instance_id.is_empty() || eni.reported.generation >= eni.generation
}

/// Brings the derived column up to date. Every change of an interface ends with this.
pub fn refresh(eni: &mut EniRecord) {
    eni.status = derive(eni).to_owned();
}

/// The instance an interface is at, or still leaves; empty: none.
pub fn instance_of(eni: &EniRecord) -> &str {
    if eni.instance_id.is_empty() { &eni.reported.instance_id } else { &eni.instance_id }
}

/// `Primary` or `Secondary`.
pub(crate) fn kind(eni: &EniRecord) -> &'static str {
    if eni.primary { "Primary" } else { "Secondary" }
}
