//! What a person may ask of a network interface in which state.

use super::{
    ATTACHING, AVAILABLE, DETACHING, IN_USE, check_addresses, check_count, check_devices,
    check_ipv6, check_queues, instance_of, reason, refresh,
};
use crate::{
    ecs_error::refuse,
    instance_state::{RUNNING, STOPPED},
};
use store::{EniRecord, InstanceDetails, InstanceRecord, Refusal};

/// Where an interface is to go.
#[derive(Debug, Clone, Copy)]
pub struct EniSeat<'a> {
    /// The instance with the interfaces it has.
    pub details: &'a InstanceDetails,
    /// Interfaces that the instance is still to give up.
    pub leaving: &'a [EniRecord],
}

impl EniSeat<'_> {
    /// Places that are taken: an interface that leaves still has its own.
    fn taken(&self) -> Vec<u32> {
        let instance_id = &self.details.instance.instance_id;
        let leaving = self.leaving.iter().filter(|eni| eni.reported.instance_id == *instance_id);
        self.details.enis.iter().chain(leaving).map(|eni| eni.position).collect()
    }
}

/// Wants an Available interface at an instance. Gives the changed instance.
///
/// # Errors
/// `InvalidOperation.InvalidEniState`, `.InvalidEniType`, `.InvalidEcsState`,
/// `.AvailabilityZoneMismatch`, `.VpcMismatch`, `EniPerInstanceLimitExceeded`,
/// `InvalidOperation.Ipv4CountExceeded`, `.Ipv6CountExceeded`, `.Ipv6NotSupport`,
/// `.ExceedInstanceTypeQueueNumber`.
pub fn attach(eni: &mut EniRecord, to: &EniSeat<'_>, now: i64) -> Result<InstanceRecord, Refusal> {
    let mut instance = to.details.instance.clone();
    expect_loose(eni, "AttachNetworkInterface")?;
    expect_steady(&instance, "AttachNetworkInterface")?;
    let (eni_id, instance_id) = (&eni.eni_id, &instance.instance_id);
    if eni.zone_id != instance.zone_id {
        return Err(refuse(
            403,
            "InvalidOperation.AvailabilityZoneMismatch",
            format!(
                "network interface {eni_id} is in zone {}, instance {instance_id} in zone {}; use \
                 an instance of the interface's zone",
                eni.zone_id, instance.zone_id
            ),
        ));
    }
    if eni.vpc_id != instance.vpc_id {
        return Err(refuse(
            403,
            "InvalidOperation.VpcMismatch",
            format!(
                "network interface {eni_id} is in VPC {}, instance {instance_id} in VPC {}; use an \
                 instance of the interface's VPC",
                eni.vpc_id, instance.vpc_id
            ),
        ));
    }
    let kind = catalog::instance_type(&instance.instance_type);
    let taken = to.taken();
    check_count(kind, taken.len() + 1)?;
    check_devices(to.details.disks.len(), taken.len() + 1)?;
    check_addresses(kind, eni.addresses().count())?;
    check_ipv6(kind, eni.ipv6_addresses.len())?;
    check_queues(kind, eni)?;
    let position = (1..).find(|position| !taken.contains(position)).unwrap_or(u32::MAX);
    place(eni, &instance, position, now);
    instance.generation += 1;
    Ok(instance)
}

/// Wants an interface at this place of an instance.
pub(crate) fn place(eni: &mut EniRecord, instance: &InstanceRecord, position: u32, now: i64) {
    eni.instance_id.clone_from(&instance.instance_id);
    eni.host_id.clone_from(&instance.host_id);
    eni.position = position;
    eni.attached_ms = now;
    eni.generation += 1;
    refresh(eni);
}

/// Wants an interface at its instance no more, also one that did not get there yet. Gives the
/// changed instance; none if the interface is about to leave already.
///
/// # Errors
/// `InvalidOperation.DetachPrimaryEniNotAllowed`, `InvalidOperation.InvalidEniState`,
/// `InvalidParams.EniId` for another instance, `InvalidOperation.InvalidEcsState`.
pub fn detach(
    eni: &mut EniRecord,
    instance: &InstanceRecord,
) -> Result<Option<InstanceRecord>, Refusal> {
    let eni_id = &eni.eni_id;
    if eni.primary {
        return Err(refuse(
            400,
            "InvalidOperation.DetachPrimaryEniNotAllowed",
            format!(
                "network interface {eni_id} is the primary one of instance {}, which cannot be \
                 without; only secondary ones can be detached",
                eni.instance_id
            ),
        ));
    }
    expect(eni, &[IN_USE, ATTACHING, DETACHING], "DetachNetworkInterface")?;
    if instance_of(eni) != instance.instance_id {
        return Err(refuse(
            400,
            "InvalidParams.EniId",
            format!(
                "network interface {eni_id} is at instance {}, not at {}; name that one",
                instance_of(eni),
                instance.instance_id
            ),
        ));
    }
    if eni.instance_id.is_empty() {
        return Ok(None);
    }
    expect_steady(instance, "DetachNetworkInterface")?;
    // The host may have given it to the guest already and not said so yet.
    eni.reported.instance_id = std::mem::take(&mut eni.instance_id);
    eni.generation += 1;
    refresh(eni);
    let mut instance = instance.clone();
    instance.generation += 1;
    Ok(Some(instance))
}

/// An interface that outlives its instance, of which its host has nothing left, is Available.
pub fn set_free(eni: &mut EniRecord) {
    eni.instance_id.clear();
    eni.host_id.clear();
    eni.reported = Default::default();
    eni.generation += 1;
    refresh(eni);
}

/// That a secondary interface is at no instance.
///
/// # Errors
/// `InvalidOperation.InvalidEniType` for a primary one, `InvalidOperation.InvalidEniState`.
pub fn expect_loose(eni: &EniRecord, action: &str) -> Result<(), Refusal> {
    if eni.primary {
        return Err(refuse(
            403,
            "InvalidOperation.InvalidEniType",
            format!(
                "network interface {} is the primary one of instance {} for all of its life; \
                 {action} is for secondary ones",
                eni.eni_id, eni.instance_id
            ),
        ));
    }
    expect(eni, &[AVAILABLE], action)
}

/// `InvalidOperation.InvalidEniState` unless the interface is in one of these.
pub(crate) fn expect(eni: &EniRecord, wanted: &[&str], action: &str) -> Result<(), Refusal> {
    if wanted.contains(&eni.status.as_str()) {
        return Ok(());
    }
    let mut state = eni.status.clone();
    let at = instance_of(eni);
    if !at.is_empty() {
        state = format!("{state} at instance {at}");
    }
    let why = reason(eni);
    if !why.is_empty() {
        state = format!("{state} ({why})");
    }
    Err(refuse(
        400,
        "InvalidOperation.InvalidEniState",
        format!(
            "network interface {} is {state}; {action} needs {}",
            eni.eni_id,
            wanted.join(" or ")
        ),
    ))
}

/// `InvalidOperation.InvalidEcsState` unless the instance is Running or Stopped, and stays.
pub(crate) fn expect_steady(instance: &InstanceRecord, action: &str) -> Result<(), Refusal> {
    if !instance.releasing && [RUNNING, STOPPED].contains(&instance.status.as_str()) {
        return Ok(());
    }
    let state = if instance.releasing { "being released" } else { instance.status.as_str() };
    Err(refuse(
        400,
        "InvalidOperation.InvalidEcsState",
        format!(
            "instance {} is {state}; {action} needs Running or Stopped: wait for it",
            instance.instance_id
        ),
    ))
}
