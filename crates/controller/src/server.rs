//! The gRPC server.

use crate::{
    api::Api,
    cloud::{Cloud, CloudOptions},
    hosts::{Registry, watch_leases},
    images, nat_placement, snapshot_policies,
    timestamp::now_ms,
};
use api::{
    host::host_registry_server::HostRegistryServer,
    v1::{
        catalog_service_server::CatalogServiceServer, disk_service_server::DiskServiceServer,
        eip_service_server::EipServiceServer, image_service_server::ImageServiceServer,
        instance_service_server::InstanceServiceServer,
        key_pair_service_server::KeyPairServiceServer,
        nat_gateway_service_server::NatGatewayServiceServer,
        network_interface_service_server::NetworkInterfaceServiceServer,
        operator_service_server::OperatorServiceServer,
        prefix_list_service_server::PrefixListServiceServer,
        reachability_service_server::ReachabilityServiceServer,
        route_table_service_server::RouteTableServiceServer,
        security_group_service_server::SecurityGroupServiceServer,
        snapshot_service_server::SnapshotServiceServer, vpc_service_server::VpcServiceServer,
    },
};
use std::{future::Future, io, path::PathBuf, sync::Arc, time::Duration};
use store::{SqliteOptions, SqliteStore, Store, StoreError};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

/// Bytes of one message: a host's spec and its report hold everything of the host.
const MOST_MESSAGE: usize = 64 << 20;
/// Bytes of one message of an upload: 1 MiB of data and what is around it.
const MOST_UPLOAD_MESSAGE: usize = 2 << 20;

/// Why the controller cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error("data directory {path}: {source}; make it writable or choose another --data-dir")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the data directory.
    #[error(
        "data directory {path} is in use by process {process}; stop that controller, or choose \
         another --data-dir"
    )]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
        /// Id of the process, if it has said so.
        process: String,
    },
    /// The store cannot be opened.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// Reflection cannot be built.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server ended with an error.
    #[error("gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Opens the store under the data directory and tidies up after a process that was killed.
///
/// # Errors
/// If the database cannot be used.
pub async fn open(options: CloudOptions) -> Result<Cloud, ServeError> {
    let path = options.data_dir.path().join("ecs.db");
    let sqlite = SqliteOptions { path, readers: 4 };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&sqlite)?);
    let cloud = Cloud::new(store, options);
    // While this was away no host could renew its lease, and that was not the hosts' fault.
    let lease = i64::try_from(cloud.options.lease.as_millis()).unwrap_or(i64::MAX);
    cloud.store.extend_host_leases(now_ms().saturating_add(lease)).await?;
    let failed = cloud
        .store
        .fail_unfinished_images("the controller was restarted during the import; import it again")
        .await?;
    if failed > 0 {
        tracing::warn!(failed, "imports that a restart interrupted have failed");
    }
    cloud.images.remove_partial().await;
    cloud.images.remove_stray(&*cloud.store).await;
    Ok(cloud)
}

/// Serves until `stop` is done.
///
/// # Errors
/// If the server cannot be built or fails.
pub async fn serve(
    cloud: Cloud,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let leases = tokio::spawn(watch_leases(cloud.clone()));
    let policies = tokio::spawn(snapshot_policies::run(cloud.clone()));
    let builds = tokio::spawn(images::run_builds(cloud.clone()));
    let gateways = tokio::spawn(nat_placement::run(cloud.clone()));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(api::DESCRIPTORS)
        .build_v1()?;
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<InstanceServiceServer<Api>>().await;
    let handler = Api::new(cloud.clone());
    let registry = HostRegistryServer::new(Registry::new(cloud))
        .max_decoding_message_size(MOST_MESSAGE)
        .max_encoding_message_size(MOST_MESSAGE);
    let served = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(reflection)
        .add_service(health)
        .add_service(registry)
        .add_service(CatalogServiceServer::new(handler.clone()))
        .add_service(DiskServiceServer::new(handler.clone()))
        .add_service(EipServiceServer::new(handler.clone()))
        .add_service(
            ImageServiceServer::new(handler.clone()).max_decoding_message_size(MOST_UPLOAD_MESSAGE),
        )
        .add_service(InstanceServiceServer::new(handler.clone()))
        .add_service(KeyPairServiceServer::new(handler.clone()))
        .add_service(NatGatewayServiceServer::new(handler.clone()))
        .add_service(NetworkInterfaceServiceServer::new(handler.clone()))
        .add_service(OperatorServiceServer::new(handler.clone()))
        .add_service(PrefixListServiceServer::new(handler.clone()))
        .add_service(ReachabilityServiceServer::new(handler.clone()))
        .add_service(RouteTableServiceServer::new(handler.clone()))
        .add_service(SecurityGroupServiceServer::new(handler.clone()))
        .add_service(SnapshotServiceServer::new(handler.clone()))
        .add_service(VpcServiceServer::new(handler))
        // The builder's own tcp_nodelay does not reach connections that come from outside.
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop)
        .await;
    leases.abort();
    policies.abort();
    builds.abort();
    gateways.abort();
    Ok(served?)
}
