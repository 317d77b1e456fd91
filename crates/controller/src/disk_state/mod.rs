//! Status of a disk: the one place where it is derived, and the moves between states.
//!
//! What is wanted is the instance a disk is to be at; what a host said is the instance that has it.
//! A disk is In_use when both agree, and Available when neither names an instance. Until the host
//! has seen that a disk is to leave an instance, that instance counts as having it, so a disk is
//! never given to a second one too early. A deleted disk is listed as Detaching until its host has
//! nothing left of it.

mod transitions;

pub(crate) use transitions::expect;
pub use transitions::{Seat, attach, detach, expect_steady, free_of_lost_host, release, seat};

use store::DiskRecord;

/// At no instance.
pub const AVAILABLE: &str = "Available";
/// Being made, with its instance or from a snapshot.
pub const CREATING: &str = "Creating";
/// Wanted at an instance that does not have it yet.
pub const ATTACHING: &str = "Attaching";
/// At its instance.
pub const IN_USE: &str = "In_use";
/// Not wanted at the instance that still has it, or being deleted.
pub const DETACHING: &str = "Detaching";
/// Its content is being made anew.
pub const REINITING: &str = "ReIniting";

/// Every status there is.
pub const ALL: [&str; 6] = [AVAILABLE, CREATING, ATTACHING, IN_USE, DETACHING, REINITING];

/// The status that follows from what is wanted and what the host said.
pub fn derive(disk: &DiskRecord) -> &'static str {
    let reported = &disk.reported;
    if disk.releasing {
        return DETACHING;
    }
    if disk.content_epoch > reported.content_epoch {
        return REINITING;
    }
    // One that was there and now has a fault is still there.
    let made = reported.state == "ready" || reported.size_bytes > 0;
    if disk.instance_id.is_empty() {
        return if !reported.instance_id.is_empty() {
            DETACHING
        } else if !made && !disk.host_id.is_empty() && disk.attached_ms == 0 {
            CREATING
        } else {
            AVAILABLE
        };
    }
    if made && reported.instance_id == disk.instance_id {
        IN_USE
    } else if !made && disk.attached_ms == disk.created_ms {
        CREATING
    } else {
        ATTACHING
    }
}

/// Whether the host has acted on the latest size, limits and content.
pub fn in_effect(disk: &DiskRecord) -> bool {
    let reported = &disk.reported;
    disk.host_id.is_empty()
        || (reported.generation >= disk.generation && reported.content_epoch >= disk.content_epoch)
}

/// Why the disk is in its state, and what ends it. Empty when there is nothing to say.
pub fn reason(disk: &DiskRecord) -> String {
    let host_id = &disk.host_id;
    if disk.releasing {
        return format!("being deleted; it goes when host {host_id} has nothing left of it");
    }
    match (disk.reported.code.as_str(), disk.reported.message.as_str()) {
        ("", "") => {}
        ("", said) | (said, "") => return said.to_owned(),
        (code, message) => return format!("{code}: {message}"),
    }
    match derive(disk) {
        CREATING => format!("waiting for host {host_id} to make it"),
        ATTACHING => {
            format!("waiting for host {host_id} to attach it to instance {}", disk.instance_id)
        }
        DETACHING => format!(
            "waiting for the guest of instance {} to let go of it; unmount it there, or stop the \
             instance",
            disk.reported.instance_id
        ),
        REINITING => format!("waiting for host {host_id} to make its content anew"),
        _ if !in_effect(disk) => {
            format!("waiting for host {host_id} to act on the latest size and limits")
        }
        _ => String::new(),
    }
}

/// Brings the derived column up to date. Every change of a disk ends with this.
pub fn refresh(disk: &mut DiskRecord) {
    disk.status = derive(disk).to_owned();
}

/// The instance a disk is at, or still leaves; empty: none.
pub fn instance_of(disk: &DiskRecord) -> &str {
    if disk.instance_id.is_empty() { &disk.reported.instance_id } else { &disk.instance_id }
}

/// `/dev/xvda` of the system disk, and so on.
pub fn device(position: u32) -> String {
    let letter = u8::try_from(position).unwrap_or(25).min(25) + b'a';
    format!("/dev/xvd{}", char::from(letter))
}
