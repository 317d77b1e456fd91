//! Start, stop, reboot and delete, one instance or many.

use super::{Api, request};
use crate::{
    disk_state::{self, IN_USE, REINITING},
    ecs_error::{dry_run, from_store, instance_not_found, missing, refuse},
    instance_state::{self, StoppedMode},
    scheduler::{self, Needs},
    timestamp::now_ms,
};
use api::v1::*;
use prost::Message as _;
use std::collections::BTreeSet;
use store::{
    ClientToken, DiskRecord, HostRecord, InstanceRecord, InstancesPlan, InstancesView, Refusal,
};

/// Most instances of one call.
const MOST: usize = 100;

/// What is asked of every instance of a call.
#[derive(Debug, Clone, Copy)]
enum Move {
    Start,
    Stop { force: bool, mode: StoppedMode },
    Reboot { force: bool },
    Delete { force: bool },
}

impl Move {
    /// Changes one instance, which has these disks. `hosts` have what earlier instances of the call have taken.
    fn apply(
        self,
        instance: &mut InstanceRecord,
        disks: &[DiskRecord],
        hosts: &mut [HostRecord],
        now: i64,
    ) -> Result<(), Refusal> {
        match self {
            Self::Start => {
                let claimed = instance.claimed;
                // A guest that runs would keep its host from making the content anew.
                if let Some(disk) = disks.iter().find(|disk| disk.status == REINITING) {
                    disk_state::expect(disk, &[IN_USE], "StartInstance")?;
                }
                instance_state::start(instance)?;
                let Some(host) = hosts.iter_mut().find(|host| host.host_id == instance.host_id)
                else {
                    return Ok(());
                };
                if !claimed {
                    let needs = Needs::of_instance(instance);
                    if let Some(refusal) = scheduler::cannot_resume(host, &needs, now) {
                        return Err(refusal);
                    }
                    host.vcpus_used += instance.vcpus;
                    host.memory_mib_used += instance.memory_mib;
                }
                Ok(())
            }
            Self::Stop { force, mode } => instance_state::stop(instance, force, mode),
            Self::Reboot { force } => instance_state::reboot(instance, force),
            Self::Delete { force } => instance_state::delete(instance, force),
        }
    }
}

fn mode(stopped_mode: &str) -> Result<StoppedMode, Refusal> {
    match stopped_mode {
        "" | "KeepCharging" => Ok(StoppedMode::KeepCharging),
        "StopCharging" => Ok(StoppedMode::StopCharging),
        other => Err(refuse(
            400,
            "InvalidParameter",
            format!("stopped_mode is {other:?}; it must be KeepCharging or StopCharging"),
        )),
    }
}

/// Whether one refusal refuses the whole call.
fn all_together(batch_optimization: &str) -> Result<bool, Refusal> {
    match batch_optimization {
        "" | "AllTogether" => Ok(true),
        "SuccessFirst" => Ok(false),
        other => Err(refuse(
            400,
            "InvalidParameter",
            format!("batch_optimization is {other:?}; it must be AllTogether or SuccessFirst"),
        )),
    }
}

/// The lines of a batch, wrapped to be kept in the store.
#[derive(Clone, PartialEq, prost::Message)]
struct Lines {
    #[prost(message, repeated, tag = "1")]
    lines: Vec<InstanceResponse>,
}

impl Api {
    /// Moves instances in one transaction and gives one line for each.
    async fn move_instances(
        &self,
        token: Option<ClientToken>,
        ids: Vec<String>,
        asked: Move,
        together: bool,
        dry: bool,
    ) -> Result<Vec<InstanceResponse>, Refusal> {
        if ids.is_empty() || ids.iter().any(String::is_empty) {
            return Err(missing("instance_id"));
        }
        if ids.len() > MOST {
            return Err(refuse(
                400,
                "InvalidParameter",
                format!("{} instances given; a call takes at most {MOST}", ids.len()),
            ));
        }
        let unique: BTreeSet<&String> = ids.iter().collect();
        if unique.len() != ids.len() {
            return Err(refuse(400, "InvalidParameter", "an instance_id is given twice"));
        }
        let wanted = ids.clone();
        let decide = move |view: &InstancesView| plan(view, &wanted, asked, together, dry);
        let answer = self
            .cloud
            .store
            .change_instances(token, ids, Box::new(decide))
            .await
            .map_err(from_store)?;
        Lines::decode(answer.bytes.as_slice())
            .map(|lines| lines.lines)
            .map_err(|error| refuse(500, "InternalError", format!("kept answer: {error}")))
    }

    pub(super) async fn start_instance(
        &self,
        request: StartInstanceRequest,
    ) -> Result<StartInstanceResponse, Refusal> {
        let ids = vec![request.instance_id];
        self.move_instances(None, ids, Move::Start, true, request.dry_run).await?;
        Ok(StartInstanceResponse::default())
    }

    pub(super) async fn stop_instance(
        &self,
        request: StopInstanceRequest,
    ) -> Result<StopInstanceResponse, Refusal> {
        let asked = Move::Stop { force: request.force_stop, mode: mode(&request.stopped_mode)? };
        self.move_instances(None, vec![request.instance_id], asked, true, request.dry_run).await?;
        Ok(StopInstanceResponse::default())
    }

    pub(super) async fn reboot_instance(
        &self,
        request: RebootInstanceRequest,
    ) -> Result<RebootInstanceResponse, Refusal> {
        let asked = Move::Reboot { force: request.force_stop };
        self.move_instances(None, vec![request.instance_id], asked, true, request.dry_run).await?;
        Ok(RebootInstanceResponse::default())
    }

    pub(super) async fn delete_instance(
        &self,
        request: DeleteInstanceRequest,
    ) -> Result<DeleteInstanceResponse, Refusal> {
        let asked = Move::Delete { force: request.force };
        self.move_instances(None, vec![request.instance_id], asked, true, request.dry_run).await?;
        Ok(DeleteInstanceResponse::default())
    }

    pub(super) async fn start_instances(
        &self,
        request: StartInstancesRequest,
    ) -> Result<StartInstancesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let together = all_together(&request.batch_optimization)?;
        let instance_responses = self
            .move_instances(None, request.instance_id, Move::Start, together, request.dry_run)
            .await?;
        Ok(StartInstancesResponse { instance_responses, ..Default::default() })
    }

    pub(super) async fn stop_instances(
        &self,
        request: StopInstancesRequest,
    ) -> Result<StopInstancesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let together = all_together(&request.batch_optimization)?;
        let asked = Move::Stop { force: request.force_stop, mode: mode(&request.stopped_mode)? };
        let instance_responses = self
            .move_instances(None, request.instance_id, asked, together, request.dry_run)
            .await?;
        Ok(StopInstancesResponse { instance_responses, ..Default::default() })
    }

    pub(super) async fn reboot_instances(
        &self,
        request: RebootInstancesRequest,
    ) -> Result<RebootInstancesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let together = all_together(&request.batch_optimization)?;
        let asked = Move::Reboot { force: request.force_reboot };
        let instance_responses = self
            .move_instances(None, request.instance_id, asked, together, request.dry_run)
            .await?;
        Ok(RebootInstancesResponse { instance_responses, ..Default::default() })
    }

    pub(super) async fn delete_instances(
        &self,
        request: DeleteInstancesRequest,
    ) -> Result<DeleteInstancesResponse, Refusal> {
        let token = request::token("DeleteInstances", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let asked = Move::Delete { force: request.force };
        self.move_instances(token, request.instance_id, asked, true, request.dry_run).await?;
        Ok(DeleteInstancesResponse::default())
    }
}

fn plan(
    view: &InstancesView,
    wanted: &[String],
    asked: Move,
    together: bool,
    dry: bool,
) -> Result<InstancesPlan, Refusal> {
    let mut hosts = view.hosts.clone();
    let now = now_ms();
    let mut update = Vec::new();
    let mut lines = Vec::with_capacity(wanted.len());
    for instance_id in wanted {
        let found =
            view.instances.iter().find(|details| details.instance.instance_id == *instance_id);
        let outcome = match found {
            None => Err((instance_not_found(instance_id), "")),
            Some(details) => {
                let mut instance = details.instance.clone();
                asked
                    .apply(&mut instance, &details.disks, &mut hosts, now)
                    .map(|()| (details.instance.status.as_str(), instance))
                    .map_err(|refusal| (refusal, details.instance.status.as_str()))
            }
        };
        match outcome {
            Ok((previous, instance)) => {
                lines.push(InstanceResponse {
                    instance_id: instance_id.clone(),
                    code: "200".to_owned(),
                    message: "success".to_owned(),
                    previous_status: previous.to_owned(),
                    current_status: instance.status.clone(),
                });
                update.push(instance);
            }
            Err((refusal, _)) if together => return Err(refusal),
            Err((refusal, status)) => lines.push(InstanceResponse {
                instance_id: instance_id.clone(),
                code: refusal.code.into_owned(),
                message: refusal.message,
                previous_status: status.to_owned(),
                current_status: status.to_owned(),
            }),
        }
    }
    if dry {
        return Err(dry_run());
    }
    Ok(InstancesPlan { update, answer: Lines { lines }.encode_to_vec() })
}
