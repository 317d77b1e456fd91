//! `ModifyNetworkInterfaceAttribute`.

use super::{
    Api,
    network_interface_create::check_shape,
    network_interfaces::{found, instance_in},
};
use crate::{
    ecs_error::{from_store, missing, refuse},
    eni_state::{self, AVAILABLE},
    group_membership::{self, Codes, ENI},
    instance_state::STOPPED,
};
use api::v1::*;
use store::{EniRecord, EnisLookup, EnisPlan, EnisView, GroupUse, InstanceRecord, Refusal};

/// The instance an interface is at: its host has to be told of the interface's change.
pub(super) fn told(view: &EnisView, eni: &EniRecord) -> Vec<InstanceRecord> {
    let details = instance_in(view, &eni.instance_id);
    let instance = details.map(|details| details.instance.clone());
    instance
        .into_iter()
        .map(|instance| InstanceRecord { generation: instance.generation + 1, ..instance })
        .collect()
}

/// The interface in these groups instead of its own.
pub(super) fn in_groups(
    old: &EniRecord,
    group_ids: &[String],
    known: &[GroupUse],
    codes: &Codes,
) -> Result<EniRecord, Refusal> {
    let addresses = old.all_addresses().count() as u64;
    let joining = |group_id: &str| {
        let in_it = old.security_group_ids.iter().any(|known| known == group_id);
        if in_it { 0 } else { addresses }
    };
    group_membership::check(codes, &old.vpc_id, group_ids, known, joining)?;
    let mut eni = old.clone();
    eni.security_group_ids = group_ids.to_vec();
    eni.generation += 1;
    Ok(eni)
}

/// Values that have been checked; what is none stays as it is.
struct Change {
    eni_id: String,
    name: Option<String>,
    description: Option<String>,
    group_ids: Vec<String>,
    queues: Option<u32>,
    source_dest_check: Option<bool>,
    delete_on_release: Option<bool>,
}

impl Change {
    fn check(request: ModifyNetworkInterfaceAttributeRequest) -> Result<Self, Refusal> {
        if request.network_interface_id.is_empty() {
            return Err(missing("network_interface_id"));
        }
        let name = request.network_interface_name.as_deref().unwrap_or_default();
        let description = request.description.as_deref().unwrap_or_default();
        check_shape(name, description, request.queue_number.unwrap_or(1))?;
        if request.queue_number == Some(0) {
            return Err(refuse(
                403,
                "InvalidParameter.InvalidEniQueueNumber",
                "queue_number is 0; it must be 1 at least",
            ));
        }
        let change = Self {
            eni_id: request.network_interface_id,
            name: request.network_interface_name,
            description: request.description,
            group_ids: group_membership::asked("", &request.security_group_id, &ENI)?,
            queues: request.queue_number,
            source_dest_check: request.source_dest_check,
            delete_on_release: request.delete_on_release,
        };
        let nothing = change.name.is_none()
            && change.description.is_none()
            && change.group_ids.is_empty()
            && change.queues.is_none()
            && change.source_dest_check.is_none()
            && change.delete_on_release.is_none();
        if nothing {
            return Err(refuse(
                400,
                "MissingParameter",
                "nothing to modify is given; give network_interface_name, description, \
                 security_group_id, queue_number, source_dest_check or delete_on_release",
            ));
        }
        Ok(change)
    }

    fn plan(&self, view: &EnisView) -> Result<EnisPlan, Refusal> {
        let old = found(view, &self.eni_id)?;
        let at = instance_in(view, &old.instance_id);
        if let Some(details) = at
            && details.instance.releasing
        {
            eni_state::expect_steady(&details.instance, "ModifyNetworkInterfaceAttribute")?;
        }
        let mut eni = old.clone();
        if let Some(name) = &self.name {
            eni.name.clone_from(name);
        }
        if let Some(description) = &self.description {
            eni.description.clone_from(description);
        }
        let mut for_host = false;
        if !self.group_ids.is_empty() && self.group_ids != old.security_group_ids {
            eni = in_groups(&eni, &self.group_ids, &view.groups, &ENI)?;
            for_host = true;
        }
        if let Some(check) = self.source_dest_check {
            eni.source_dest_check = check;
        }
        if let Some(goes) = self.delete_on_release {
            if eni.primary {
                return Err(self.of_secondary_only("delete_on_release"));
            }
            eni.delete_on_release = goes;
        }
        if let Some(queues) = self.queues {
            if eni.primary {
                return Err(self.of_secondary_only("queue_number"));
            }
            eni.queues = queues;
            let of_type =
                at.and_then(|details| catalog::instance_type(&details.instance.instance_type));
            match at {
                // The guest's driver has learned the number already.
                Some(details) if details.instance.status != STOPPED => {
                    return Err(refuse(
                        400,
                        "InvalidOperation.InvalidEcsState",
                        format!(
                            "instance {} is {}; queue_number changes while it is Stopped, or while \
                             the interface is at no instance",
                            details.instance.instance_id, details.instance.status
                        ),
                    ));
                }
                Some(_) => eni_state::check_queues(of_type, &eni)?,
                None => {
                    eni_state::expect(&eni, &[AVAILABLE], "ModifyNetworkInterfaceAttribute")?;
                }
            }
        }
        if eni.source_dest_check != old.source_dest_check || eni.queues != old.queues {
            eni.generation += 1;
            for_host = true;
        }
        let mut update_instances = Vec::new();
        if for_host {
            update_instances = told(view, &eni);
        }
        Ok(EnisPlan { update: vec![eni], update_instances, ..Default::default() })
    }

    fn of_secondary_only(&self, parameter: &str) -> Refusal {
        refuse(
            403,
            "InvalidOperation.InvalidEniType",
            format!(
                "network interface {} is a primary one; {parameter} is of secondary ones only",
                self.eni_id
            ),
        )
    }
}

impl Api {
    pub(super) async fn modify_network_interface_attribute(
        &self,
        request: ModifyNetworkInterfaceAttributeRequest,
    ) -> Result<ModifyNetworkInterfaceAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let change = Change::check(request)?;
        let lookup = EnisLookup {
            eni_ids: vec![change.eni_id.clone()],
            security_group_ids: change.group_ids.clone(),
            ..Default::default()
        };
        let decide = move |view: &EnisView| change.plan(view);
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(ModifyNetworkInterfaceAttributeResponse::default())
    }
}
