//! The real `ecs-controller` process on a directory of its own, and clients of it.

#![allow(dead_code)]

use api::{
    host::host_registry_client::HostRegistryClient,
    v1::{
        catalog_service_client::CatalogServiceClient, disk_service_client::DiskServiceClient,
        image_service_client::ImageServiceClient, instance_service_client::InstanceServiceClient,
        key_pair_service_client::KeyPairServiceClient,
        network_interface_service_client::NetworkInterfaceServiceClient,
        operator_service_client::OperatorServiceClient,
        security_group_service_client::SecurityGroupServiceClient,
        snapshot_service_client::SnapshotServiceClient, vpc_service_client::VpcServiceClient, *,
    },
};
use futures::stream;
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// Region and zone of every test.
pub const REGION: &str = "cn-lab-1";
pub const ZONE: &str = "cn-lab-1a";

/// A controller process.
pub struct CloudProcess {
    directory: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl CloudProcess {
    pub async fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Self {
            directory: tempfile::tempdir().unwrap(),
            port,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            child: None,
        };
        process.spawn().await;
        process
    }

    pub async fn spawn(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_ecs-controller"))
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--data-dir")
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.endpoint().connect().await.is_err() {
            assert!(Instant::now() < deadline, "the controller does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub async fn restart(&mut self) {
        self.kill();
        self.spawn().await;
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap()
    }

    pub fn channel(&self) -> Channel {
        self.endpoint().connect_lazy()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn join_token(&self) -> String {
        fs::read_to_string(self.path("join-token")).unwrap().trim().to_owned()
    }

    pub fn instances(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel())
    }

    pub fn vpcs(&self) -> VpcServiceClient<Channel> {
        VpcServiceClient::new(self.channel())
    }

    pub fn network_interfaces(&self) -> NetworkInterfaceServiceClient<Channel> {
        NetworkInterfaceServiceClient::new(self.channel())
    }

    pub fn groups(&self) -> SecurityGroupServiceClient<Channel> {
        SecurityGroupServiceClient::new(self.channel())
    }

    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel())
    }

    pub fn key_pairs(&self) -> KeyPairServiceClient<Channel> {
        KeyPairServiceClient::new(self.channel())
    }

    pub fn disks(&self) -> DiskServiceClient<Channel> {
        DiskServiceClient::new(self.channel())
    }

    pub fn snapshots(&self) -> SnapshotServiceClient<Channel> {
        SnapshotServiceClient::new(self.channel())
    }

    pub fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.channel())
    }

    pub fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel())
    }

    pub fn registry(&self) -> HostRegistryClient<Channel> {
        HostRegistryClient::new(self.channel())
    }

    /// Uploads an image.
    pub async fn import(
        &self,
        header: ImportImageHeader,
        content: &[u8],
    ) -> Result<String, tonic::Status> {
        use import_image_request::Part;
        let mut parts = vec![ImportImageRequest { part: Some(Part::Header(header)) }];
        for chunk in content.chunks(256 << 10) {
            parts.push(ImportImageRequest { part: Some(Part::Data(chunk.to_vec())) });
        }
        let answer = self.images().import_image(stream::iter(parts)).await?;
        Ok(answer.into_inner().image_id)
    }

    /// Makes a network, a group, and an image.
    pub async fn site(&self) -> Site {
        let vpc_id = self
            .vpcs()
            .create_vpc(CreateVpcRequest {
                cidr_block: "10.0.0.0/8".to_owned(),
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner()
            .vpc_id;
        let v_switch_id = self
            .vpcs()
            .create_v_switch(CreateVSwitchRequest {
                vpc_id: vpc_id.clone(),
                zone_id: ZONE.to_owned(),
                cidr_block: "10.1.0.0/16".to_owned(),
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner()
            .v_switch_id;
        let security_group_id = self
            .groups()
            .create_security_group(CreateSecurityGroupRequest {
                vpc_id: vpc_id.clone(),
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner()
            .security_group_id;
        let header = ImportImageHeader { image_name: "debian-12".to_owned(), ..Default::default() };
        let image_id = self.import(header, &vec![7; 3 << 20]).await.unwrap();
        Site { vpc_id, v_switch_id, security_group_id, image_id }
    }
}

impl Drop for CloudProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What instances need.
#[derive(Debug, Clone)]
pub struct Site {
    pub vpc_id: String,
    pub v_switch_id: String,
    pub security_group_id: String,
    pub image_id: String,
}

impl Site {
    pub fn run(&self, amount: u32) -> RunInstancesRequest {
        RunInstancesRequest {
            image_id: self.image_id.clone(),
            instance_type: "ecs.c7.large".to_owned(),
            v_switch_id: self.v_switch_id.clone(),
            security_group_id: self.security_group_id.clone(),
            amount,
            ..Default::default()
        }
    }
}

/// ECS code of an error.
pub fn code(status: &tonic::Status) -> String {
    api::error::ecs_code(status).unwrap_or_else(|| format!("no ECS code: {status}"))
}
