//! The services of `proto/ecs/v1`, one file each. A handler gets a request and gives a response or
//! a refusal; request ids and gRPC are added here.

mod console;
mod disk_content;
mod disk_life;
mod disk_modify;
mod disk_monitor;
mod disk_shape;
mod disks;
mod eips;
mod events;
mod forward_entries;
mod image;
mod image_create;
mod image_export;
mod image_import;
mod instance_create;
mod instance_disks;
mod instance_interfaces;
mod instance_modify;
mod instance_power;
mod instance_public_ip;
mod instance_types;
mod instances;
mod key_pairs;
mod nat_entries;
mod nat_gateways;
mod network_interface_attach;
mod network_interface_create;
mod network_interface_ips;
mod network_interface_ipv6;
mod network_interface_modify;
mod network_interfaces;
mod networks;
mod operator;
mod paging;
mod prefix_lists;
mod reachability;
mod request;
mod route_entries;
mod route_tables;
mod security_group_members;
mod security_group_modify;
mod security_group_rules;
mod security_groups;
mod snapshot_policies;
mod snapshots;
mod storage_pools;
mod vpc_attributes;

use crate::cloud::Cloud;
use prost::Message;
use store::{ClientToken, EdgeLookup, EdgePlan, EdgeView, Refusal};

/// Implements a generated service trait by handlers of the same names.
macro_rules! service {
    ($service:path => $type:ty { $($method:ident: $request:ty => $response:ty;)* } $($rest:tt)*) => {
        #[tonic::async_trait]
        impl $service for $type {
            $(
                async fn $method(
                    &self,
                    request: tonic::Request<$request>,
                ) -> Result<tonic::Response<$response>, tonic::Status> {
                    let request_id = $crate::ids::request();
                    match <$type>::$method(self, request.into_inner()).await {
                        Ok(mut response) => {
                            response.request_id = request_id;
                            Ok(tonic::Response::new(response))
                        }
                        Err(refusal) => {
                            tracing::debug!(
                                request_id, method = stringify!($method), %refusal, "refused"
                            );
                            Err($crate::ecs_error::to_status(&refusal, &request_id))
                        }
                    }
                }
            )*
            $($rest)*
        }
    };
}
pub(crate) use service;

/// Every service of the API.
#[derive(Debug, Clone)]
pub struct Api {
    cloud: Cloud,
}

impl Api {
    /// The API of a cloud.
    pub fn new(cloud: Cloud) -> Self {
        Self { cloud }
    }

    /// Changes what VPCs have and what leads out of them. The plan's answer is the response, an empty
    /// one that of a response without fields.
    async fn change_edge<M: Message + Default>(
        &self,
        token: Option<ClientToken>,
        lookup: EdgeLookup,
        decide: impl Fn(&EdgeView) -> Result<EdgePlan, Refusal> + Send + Sync + 'static,
    ) -> Result<M, Refusal> {
        request::response(self.cloud.store.change_edge(token, lookup, Box::new(decide)).await)
    }

    /// Reads what VPCs have and what leads out of them.
    async fn edge(&self, lookup: EdgeLookup) -> Result<EdgeView, Refusal> {
        self.cloud.store.edge(lookup).await.map_err(crate::ecs_error::from_store)
    }
}
