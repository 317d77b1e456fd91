//! `ModifyInstanceAttribute`.

use super::{Api, network_interface_modify::in_groups, network_interfaces::instance_in};
use crate::{
    ecs_error::{from_store, instance_not_found, missing, refuse},
    group_membership::{self, JOIN_INSTANCE},
    instance_state, validation,
};
use api::v1::{ModifyInstanceAttributeRequest, ModifyInstanceAttributeResponse};
use store::{EnisLookup, EnisPlan, EnisView, InstanceRecord, Refusal};

/// Values that have been checked; what is none stays as it is.
struct Change {
    name: Option<String>,
    description: Option<String>,
    deletion_protection: Option<bool>,
    host_name: Option<String>,
    user_data: Option<Vec<u8>>,
    /// Of the primary interface.
    group_ids: Vec<String>,
}

impl Change {
    fn check(request: ModifyInstanceAttributeRequest) -> Result<Self, Refusal> {
        if let Some(name) = &request.instance_name {
            let code = "InvalidInstanceName.Malformed";
            if name.is_empty() {
                return Err(refuse(400, code, "the instance name must not be empty"));
            }
            validation::display_name(code, "instance name", name)?;
        }
        if let Some(description) = &request.description {
            validation::description("InvalidDescription.Malformed", description)?;
        }
        if let Some(host_name) = &request.host_name {
            validation::host_name(host_name)?;
        }
        let user_data = request.user_data.as_deref().map(validation::user_data).transpose()?;
        let change = Self {
            name: request.instance_name,
            description: request.description,
            deletion_protection: request.deletion_protection,
            host_name: request.host_name,
            user_data,
            group_ids: group_membership::asked("", &request.security_group_ids, &JOIN_INSTANCE)?,
        };
        let nothing = change.name.is_none()
            && change.description.is_none()
            && change.deletion_protection.is_none()
            && change.host_name.is_none()
            && change.user_data.is_none()
            && change.group_ids.is_empty();
        if nothing {
            return Err(refuse(
                400,
                "MissingParameter",
                "nothing to modify is given; give instance_name, description, host_name, user_data, \
                 deletion_protection or security_group_ids",
            ));
        }
        Ok(change)
    }

    fn apply(&self, instance: &mut InstanceRecord) -> Result<(), Refusal> {
        let status = instance.status.as_str();
        let needs = if instance.releasing {
            Some("one that is not being released")
        } else if self.user_data.is_some() && status != instance_state::STOPPED {
            Some("Stopped to change user_data")
        } else if self.host_name.is_some()
            && [instance_state::PENDING, instance_state::STARTING].contains(&status)
        {
            Some("Running or Stopped to change host_name")
        } else {
            None
        };
        if let Some(needs) = needs {
            return Err(refuse(
                403,
                "IncorrectInstanceStatus",
                format!(
                    "instance {} is {status}; ModifyInstanceAttribute needs {needs}",
                    instance.instance_id
                ),
            ));
        }
        let of_spec = self.name.is_some()
            || self.host_name.is_some()
            || self.user_data.is_some()
            || !self.group_ids.is_empty();
        set(&mut instance.name, &self.name);
        set(&mut instance.description, &self.description);
        set(&mut instance.deletion_protection, &self.deletion_protection);
        set(&mut instance.host_name, &self.host_name);
        set(&mut instance.user_data, &self.user_data);
        if of_spec {
            instance.generation += 1;
        }
        Ok(())
    }
}

fn set<T: Clone>(value: &mut T, new: &Option<T>) {
    if let Some(new) = new {
        value.clone_from(new);
    }
}

impl Api {
    pub(super) async fn modify_instance_attribute(
        &self,
        request: ModifyInstanceAttributeRequest,
    ) -> Result<ModifyInstanceAttributeResponse, Refusal> {
        let instance_id = request.instance_id.clone();
        if instance_id.is_empty() {
            return Err(missing("instance_id"));
        }
        let change = Change::check(request)?;
        let lookup = EnisLookup {
            instance_ids: vec![instance_id.clone()],
            security_group_ids: change.group_ids.clone(),
            ..Default::default()
        };
        let decide = move |view: &EnisView| {
            let found =
                instance_in(view, &instance_id).ok_or_else(|| instance_not_found(&instance_id))?;
            let mut instance = found.instance.clone();
            change.apply(&mut instance)?;
            let mut update = Vec::new();
            if !change.group_ids.is_empty() {
                for eni in found.enis.iter().filter(|eni| eni.primary) {
                    let groups = &change.group_ids;
                    update.push(in_groups(eni, groups, &view.groups, &JOIN_INSTANCE)?);
                }
            }
            Ok(EnisPlan { update, update_instances: vec![instance], ..Default::default() })
        };
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(ModifyInstanceAttributeResponse::default())
    }
}
