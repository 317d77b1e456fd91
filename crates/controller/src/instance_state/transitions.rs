//! What a person may ask of an instance in which state.

use super::{RUNNING, STARTING, STOPPED, STOPPING, refresh};
use crate::ecs_error::refuse;
use store::{InstanceRecord, Refusal};

/// What a stopped instance keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedMode {
    /// vCPUs and memory stay its own.
    KeepCharging,
    /// vCPUs and memory go back to the host once it has stopped.
    StopCharging,
}

/// Wants it to run.
///
/// # Errors
/// `IncorrectInstanceStatus` unless it is Stopped.
pub fn start(instance: &mut InstanceRecord) -> Result<(), Refusal> {
    expect(instance, instance.status == STOPPED, "StartInstance", STOPPED)?;
    instance.generation += 1;
    instance.power_generation = instance.generation;
    instance.boot_epoch += 1;
    instance.power_on = true;
    instance.force = false;
    instance.stop_charging = false;
    instance.start_when_ready = false;
    instance.claimed = true;
    refresh(instance);
    Ok(())
}

/// Wants it stopped. With `force` the guest is not asked, and one that is still starting or that
/// does not listen to an earlier request is stopped too.
///
/// # Errors
/// `IncorrectInstanceStatus` unless it is Running.
pub fn stop(instance: &mut InstanceRecord, force: bool, mode: StoppedMode) -> Result<(), Refusal> {
    let status = instance.status.as_str();
    let allowed = status == RUNNING || (force && [STARTING, STOPPING].contains(&status));
    let hint = if force { "Running, Starting or Stopping" } else { "Running, or force_stop" };
    expect(instance, allowed, "StopInstance", hint)?;
    instance.generation += 1;
    instance.power_generation = instance.generation;
    instance.power_on = false;
    instance.force = force;
    instance.stop_charging = mode == StoppedMode::StopCharging;
    refresh(instance);
    Ok(())
}

/// Wants the guest stopped and started again.
///
/// # Errors
/// `IncorrectInstanceStatus` unless it is Running.
pub fn reboot(instance: &mut InstanceRecord, force: bool) -> Result<(), Refusal> {
    expect(instance, instance.status == RUNNING, "RebootInstance", RUNNING)?;
    instance.generation += 1;
    instance.boot_epoch += 1;
    instance.force = force;
    refresh(instance);
    Ok(())
}

/// Wants nothing left of it. Asking twice is asking once.
///
/// # Errors
/// `IncorrectInstanceStatus` unless it is Stopped or `force` is set;
/// `InvalidOperation.DeletionProtection` while it is protected.
pub fn delete(instance: &mut InstanceRecord, force: bool) -> Result<(), Refusal> {
    if instance.releasing {
        return Ok(());
    }
    if instance.deletion_protection {
        return Err(refuse(
            403,
            "InvalidOperation.DeletionProtection",
            format!(
                "instance {} is protected against deletion; set its deletion_protection to false \
                 with ModifyInstanceAttribute first",
                instance.instance_id
            ),
        ));
    }
    if !force && instance.status != STOPPED {
        return Err(refuse(
            403,
            "IncorrectInstanceStatus",
            format!(
                "instance {} is {}; stop it first, or delete it with force",
                instance.instance_id, instance.status
            ),
        ));
    }
    instance.generation += 1;
    if instance.power_on {
        instance.power_generation = instance.generation;
    }
    instance.power_on = false;
    instance.force = true;
    instance.releasing = true;
    refresh(instance);
    Ok(())
}

fn expect(
    instance: &InstanceRecord,
    allowed: bool,
    action: &str,
    wanted: &str,
) -> Result<(), Refusal> {
    if allowed && !instance.releasing {
        return Ok(());
    }
    let state = if instance.releasing { "being released" } else { instance.status.as_str() };
    Err(refuse(
        403,
        "IncorrectInstanceStatus",
        format!("instance {} is {state}; {action} needs {wanted}", instance.instance_id),
    ))
}
