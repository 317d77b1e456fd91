//! What every part of the controller shares.

use crate::{
    data_dir::DataDir,
    disk_metrics::DiskMetricsBook,
    hosts::HostAccess,
    images::{Builds, Exports, ImageFiles, Imports},
};
use ipnet::Ipv4Net;
use kms::KeyManagement;
use std::{sync::Arc, time::Duration};
use store::{Refusal, Store};

/// How this cloud is set up.
#[derive(Debug, Clone)]
pub struct CloudOptions {
    /// Where the database, images and the join token are.
    pub data_dir: DataDir,
    /// Region id.
    pub region_id: String,
    /// Zone ids of the region.
    pub zone_ids: Vec<String>,
    /// A host that is silent for longer is lost.
    pub lease: Duration,
    /// vCPUs offered per physical thread of a host.
    pub cpu_overcommit: f64,
    /// GiB of disks offered per GiB of a storage pool that has no factor of its own.
    pub disk_overcommit: f64,
    /// A guest that was asked to stop is stopped after this long.
    pub stop_timeout: Duration,
    /// The secret hosts and the controller know each other by.
    pub join_token: String,
    /// Name servers guests are told.
    pub dns_servers: Vec<String>,
    /// Time servers guests are told.
    pub ntp_servers: Vec<String>,
    /// Account id guests are told.
    pub owner_account_id: String,
    /// Public addresses that this cloud may give away.
    pub eip_ranges: Vec<Ipv4Net>,
    /// Networks that instances must not reach from their public addresses: those of hosts and
    /// controllers.
    pub protected_cidrs: Vec<Ipv4Net>,
    /// Makes the data keys of encrypted disks.
    pub kms: Arc<dyn KeyManagement>,
}

/// What every part of the controller shares.
#[derive(Debug, Clone)]
pub struct Cloud {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) options: Arc<CloudOptions>,
    pub(crate) images: ImageFiles,
    pub(crate) imports: Imports,
    pub(crate) builds: Builds,
    pub(crate) exports: Exports,
    pub(crate) access: HostAccess,
    pub(crate) metrics: DiskMetricsBook,
}

impl Cloud {
    /// Puts the parts together.
    pub fn new(store: Arc<dyn Store>, options: CloudOptions) -> Self {
        let images = ImageFiles::new(options.data_dir.path().join("images"));
        let access = HostAccess::new(options.join_token.clone());
        let imports = Imports::default();
        let (builds, exports) = (Builds::default(), Exports::default());
        let metrics = DiskMetricsBook::default();
        Self {
            store,
            options: Arc::new(options),
            images,
            imports,
            builds,
            exports,
            access,
            metrics,
        }
    }

    /// An empty region is the cloud's own.
    pub(crate) fn check_region(&self, region_id: &str) -> Result<(), Refusal> {
        if region_id.is_empty() || region_id == self.options.region_id {
            return Ok(());
        }
        Err(crate::ecs_error::refuse(
            404,
            "InvalidRegionId.NotFound",
            format!(
                "region {region_id} does not exist; this cloud is region {}",
                self.options.region_id
            ),
        ))
    }

    pub(crate) fn check_zone(&self, zone_id: &str) -> Result<(), Refusal> {
        if self.options.zone_ids.iter().any(|known| known == zone_id) {
            return Ok(());
        }
        Err(crate::ecs_error::refuse(
            404,
            "InvalidZoneId.NotFound",
            format!(
                "zone {zone_id} does not exist; choose one of {}",
                self.options.zone_ids.join(", ")
            ),
        ))
    }
}
