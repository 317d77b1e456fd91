//! `AttachNetworkInterface` and `DetachNetworkInterface`.

use super::{
    Api,
    network_interfaces::{found, instance_in},
};
use crate::{
    ecs_error::{ecs_not_found, from_store, missing},
    eni_state::{self, EniSeat},
    timestamp::now_ms,
};
use api::v1::*;
use store::{EnisLookup, EnisPlan, EnisView, Refusal};

/// An interface and an instance to look up.
fn both(eni_id: &str, instance_id: &str) -> Result<EnisLookup, Refusal> {
    for (name, value) in [("network_interface_id", eni_id), ("instance_id", instance_id)] {
        if value.is_empty() {
            return Err(missing(name));
        }
    }
    Ok(EnisLookup {
        eni_ids: vec![eni_id.to_owned()],
        instance_ids: vec![instance_id.to_owned()],
        ..Default::default()
    })
}

impl Api {
    pub(super) async fn attach_network_interface(
        &self,
        request: AttachNetworkInterfaceRequest,
    ) -> Result<AttachNetworkInterfaceResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let AttachNetworkInterfaceRequest { network_interface_id: eni_id, instance_id, .. } =
            request;
        let lookup = both(&eni_id, &instance_id)?;
        let decide = move |view: &EnisView| {
            let mut eni = found(view, &eni_id)?.clone();
            let details =
                instance_in(view, &instance_id).ok_or_else(|| ecs_not_found(&instance_id))?;
            let seat = EniSeat { details, leaving: &view.leaving };
            let instance = eni_state::attach(&mut eni, &seat, now_ms())?;
            Ok(EnisPlan {
                update: vec![eni],
                update_instances: vec![instance],
                ..Default::default()
            })
        };
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(AttachNetworkInterfaceResponse::default())
    }

    pub(super) async fn detach_network_interface(
        &self,
        request: DetachNetworkInterfaceRequest,
    ) -> Result<DetachNetworkInterfaceResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let DetachNetworkInterfaceRequest { network_interface_id: eni_id, instance_id, .. } =
            request;
        let lookup = both(&eni_id, &instance_id)?;
        let decide = move |view: &EnisView| {
            let mut eni = found(view, &eni_id)?.clone();
            let details =
                instance_in(view, &instance_id).ok_or_else(|| ecs_not_found(&instance_id))?;
            Ok(match eni_state::detach(&mut eni, &details.instance)? {
                Some(instance) => EnisPlan {
                    update: vec![eni],
                    update_instances: vec![instance],
                    ..Default::default()
                },
                None => EnisPlan::default(),
            })
        };
        let changed = self.cloud.store.change_enis(None, lookup, Box::new(decide)).await;
        changed.map_err(from_store)?;
        Ok(DetachNetworkInterfaceResponse::default())
    }
}
