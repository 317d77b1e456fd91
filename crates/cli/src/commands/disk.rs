//! `ecsctl disk`.

use super::{Context, pages};
use crate::{
    error::Result,
    output::table::{self, Row},
};
use api::v1::{DescribeDisksRequest, Disk};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Lists disks
    #[command(after_help = "Example:\n  ecsctl disk list --instance i-1 -o wide")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        instance: String,
        /// system or data
        #[arg(long = "type", default_value = "", hide_default_value = true)]
        disk_type: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        category: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        status: String,
    },
}

impl Row for Disk {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "TYPE", "CATEGORY", "LEVEL", "GIB", "STATUS", "INSTANCE", "DEVICE", "IMAGE",
        "IOPS", "MB/S", "REASON",
    ];
    const WIDE: usize = 5;
    fn id(&self) -> String {
        self.disk_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.disk_id.clone(),
            self.disk_name.clone(),
            self.r#type.clone(),
            self.category.clone(),
            self.performance_level.clone(),
            self.size.to_string(),
            self.status.clone(),
            self.instance_id.clone(),
            self.device.clone(),
            self.image_id.clone(),
            self.iops.to_string(),
            self.throughput.to_string(),
            self.status_reason.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: DiskCommand) -> Result<()> {
    let mut service = context.cloud.disks();
    let DiskCommand::List { ids, instance, disk_type, category, status } = command;
    let disks = pages::all(async |page_number| {
        let request = DescribeDisksRequest {
            region_id: context.region.clone(),
            disk_ids: ids.clone(),
            instance_id: instance.clone(),
            disk_type: disk_type.clone(),
            category: category.clone(),
            status: status.clone(),
            page_number,
            page_size: pages::PAGE_SIZE,
        };
        let answer = service.describe_disks(request).await?.into_inner();
        Ok((answer.disks, answer.total_count))
    })
    .await?;
    table::print(context.format, &disks);
    Ok(())
}
