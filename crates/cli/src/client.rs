//! The connection to the cloud.

use crate::{
    error::{Error, Result},
    lab,
};
use api::v1::{
    catalog_service_client::CatalogServiceClient, disk_service_client::DiskServiceClient,
    eip_service_client::EipServiceClient, image_service_client::ImageServiceClient,
    instance_service_client::InstanceServiceClient, key_pair_service_client::KeyPairServiceClient,
    nat_gateway_service_client::NatGatewayServiceClient,
    network_interface_service_client::NetworkInterfaceServiceClient,
    operator_service_client::OperatorServiceClient,
    prefix_list_service_client::PrefixListServiceClient,
    reachability_service_client::ReachabilityServiceClient,
    route_table_service_client::RouteTableServiceClient,
    security_group_service_client::SecurityGroupServiceClient,
    snapshot_service_client::SnapshotServiceClient, vpc_service_client::VpcServiceClient,
};
use std::{error::Error as _, time::Duration};
use tonic::transport::{Channel, Endpoint};

/// Where a controller listens when nobody says otherwise.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7800";

/// A console of 64 KiB in Base64 or a page of a hundred instances is far below this.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A connection from which the client of each service is made.
#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    channel: Channel,
}

impl Cloud {
    /// Connects to what was named, else to the lab of this user, else to the usual port.
    pub(crate) async fn connect(named: Option<&str>) -> Result<Self> {
        let url = match named {
            Some(url) if url.contains("://") => url.to_owned(),
            Some(address) => format!("http://{address}"),
            None => lab::endpoint().unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
        };
        let unreachable = |cause: String| Error::Unreachable { endpoint: url.clone(), cause };
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|e| unreachable(format!("that is not a URL ({e})")))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|e| {
            let mut source = e.source();
            let mut text = e.to_string();
            while let Some(inner) = source {
                text = inner.to_string();
                source = inner.source();
            }
            unreachable(text)
        })?;
        Ok(Self { channel })
    }
}

macro_rules! services {
    ($($method:ident: $client:ident),+ $(,)?) => {
        impl Cloud {
            $(pub(crate) fn $method(&self) -> $client<Channel> {
                $client::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
            })+
        }
    };
}

services! {
    catalog: CatalogServiceClient,
    disks: DiskServiceClient,
    eips: EipServiceClient,
    images: ImageServiceClient,
    instances: InstanceServiceClient,
    key_pairs: KeyPairServiceClient,
    nat_gateways: NatGatewayServiceClient,
    network_interfaces: NetworkInterfaceServiceClient,
    operator: OperatorServiceClient,
    prefix_lists: PrefixListServiceClient,
    reachability: ReachabilityServiceClient,
    route_tables: RouteTableServiceClient,
    security_groups: SecurityGroupServiceClient,
    snapshots: SnapshotServiceClient,
    vpcs: VpcServiceClient,
}

/// Names one order, so that the cloud carries it out once however often it is sent.
pub(crate) fn client_token(given: Option<String>) -> String {
    given.unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
}
