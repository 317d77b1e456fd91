//! `JoinSecurityGroup` and `LeaveSecurityGroup`.

use super::{
    Api,
    network_interface_modify::told,
    network_interfaces::{found, instance_in},
};
use crate::{
    disk_state,
    ecs_error::{from_store, group_not_found, instance_not_found, missing, refuse},
    eni_state::{self, AVAILABLE, IN_USE},
    group_membership::{self, JOIN_ENI, JOIN_INSTANCE},
};
use api::v1::*;
use store::{EniRecord, EnisLookup, EnisPlan, EnisView, Refusal};

/// Who joins or leaves.
enum Member {
    /// The primary interface of an instance.
    Instance(String),
    /// A secondary interface.
    Eni(String),
}

impl Member {
    fn of(instance_id: String, eni_id: String) -> Result<Self, Refusal> {
        match (instance_id.as_str(), eni_id.as_str()) {
            ("", "") => Err(missing("instance_id or network_interface_id")),
            (_, "") => Ok(Self::Instance(instance_id)),
            ("", _) => Ok(Self::Eni(eni_id)),
            _ => Err(refuse(
                400,
                "InvalidParameter.Conflict",
                "give instance_id or network_interface_id, not both",
            )),
        }
    }

    fn lookup(&self, group_id: &str) -> EnisLookup {
        let mut lookup =
            EnisLookup { security_group_ids: vec![group_id.to_owned()], ..Default::default() };
        match self {
            Self::Instance(instance_id) => lookup.instance_ids.push(instance_id.clone()),
            Self::Eni(eni_id) => lookup.eni_ids.push(eni_id.clone()),
        }
        lookup
    }

    /// The interface that is meant, if it may change its groups now.
    fn eni(&self, view: &EnisView, action: &str) -> Result<EniRecord, Refusal> {
        match self {
            Self::Instance(instance_id) => {
                let details = instance_in(view, instance_id)
                    .ok_or_else(|| instance_not_found(instance_id))?;
                disk_state::expect_steady(&details.instance, action)?;
                let primary = details.enis.iter().find(|eni| eni.primary).cloned();
                primary.ok_or_else(|| {
                    let what = format!("instance {instance_id} has no primary interface");
                    refuse(500, "InternalError", what)
                })
            }
            Self::Eni(eni_id) => {
                let eni = found(view, eni_id)?;
                if eni.primary {
                    return Err(refuse(
                        403,
                        "InvalidOperation.InvalidEniType",
                        format!(
                            "network interface {eni_id} is a primary one; give instance_id {} \
                             instead",
                            eni.instance_id
                        ),
                    ));
                }
                eni_state::expect(eni, &[AVAILABLE, IN_USE], action)?;
                Ok(eni.clone())
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Instance(id) => format!("instance {id}"),
            Self::Eni(id) => format!("network interface {id}"),
        }
    }

    fn join(&self, group_id: &str, view: &EnisView) -> Result<EnisPlan, Refusal> {
        let mut eni = self.eni(view, "JoinSecurityGroup")?;
        if eni.security_group_ids.iter().any(|known| known == group_id) {
            return Err(refuse(
                403,
                "InvalidInstanceId.AlreadyExists",
                format!("{} is in security group {group_id} already", self.name()),
            ));
        }
        eni.security_group_ids.push(group_id.to_owned());
        let codes = match self {
            Self::Instance(_) => &JOIN_INSTANCE,
            Self::Eni(_) => &JOIN_ENI,
        };
        let addresses = eni.all_addresses().count() as u64;
        let (vpc_id, group_ids) = (&eni.vpc_id, &eni.security_group_ids);
        let joining = |id: &str| if id == group_id { addresses } else { 0 };
        group_membership::check(codes, vpc_id, group_ids, &view.groups, joining)?;
        Ok(changed(view, eni))
    }

    fn leave(&self, group_id: &str, view: &EnisView) -> Result<EnisPlan, Refusal> {
        if view.groups.iter().all(|known| known.group.group_id != group_id) {
            return Err(group_not_found(group_id));
        }
        let mut eni = self.eni(view, "LeaveSecurityGroup")?;
        if eni.security_group_ids.iter().all(|known| known != group_id) {
            return Err(refuse(
                403,
                "InstanceNotInSecurityGroup",
                format!("{} is not in security group {group_id}", self.name()),
            ));
        }
        if eni.security_group_ids.len() == 1 {
            return Err(refuse(
                403,
                "InstanceLastSecurityGroup",
                format!(
                    "security group {group_id} is the only one of {}; let it join another first",
                    self.name()
                ),
            ));
        }
        eni.security_group_ids.retain(|known| known != group_id);
        Ok(changed(view, eni))
    }
}

fn changed(view: &EnisView, mut eni: EniRecord) -> EnisPlan {
    eni.generation += 1;
    let update_instances = told(view, &eni);
    EnisPlan { update: vec![eni], update_instances, ..Default::default() }
}

impl Api {
    pub(super) async fn join_security_group(
        &self,
        request: JoinSecurityGroupRequest,
    ) -> Result<JoinSecurityGroupResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let group_id = request.security_group_id;
        if group_id.is_empty() {
            return Err(missing("security_group_id"));
        }
        let member = Member::of(request.instance_id, request.network_interface_id)?;
        let lookup = member.lookup(&group_id);
        let decide = move |view: &EnisView| member.join(&group_id, view);
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(JoinSecurityGroupResponse::default())
    }

    pub(super) async fn leave_security_group(
        &self,
        request: LeaveSecurityGroupRequest,
    ) -> Result<LeaveSecurityGroupResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let group_id = request.security_group_id;
        if group_id.is_empty() {
            return Err(missing("security_group_id"));
        }
        let member = Member::of(request.instance_id, request.network_interface_id)?;
        let lookup = member.lookup(&group_id);
        let decide = move |view: &EnisView| member.leave(&group_id, view);
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(LeaveSecurityGroupResponse::default())
    }
}
