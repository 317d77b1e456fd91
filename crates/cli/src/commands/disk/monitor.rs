//! What a disk does at the moment.

use super::Context;
use crate::{
    error::{Error, Result},
    output::table::{self, Row},
};
use api::v1::{DescribeDiskMonitorDataRequest, DiskMonitorData};
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct MonitorArguments {
    id: String,
    /// Seconds after which to look again, until interrupted; left out: once
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: Option<u64>,
}

impl Row for DiskMonitorData {
    const COLUMNS: &'static [&'static str] = &[
        "TIME",
        "IOPS",
        "OF",
        "MB/S",
        "OF",
        "LEVEL",
        "THROTTLED",
        "READ US",
        "WRITE US",
        "ERRORS",
        "READ IOPS",
        "WRITE IOPS",
        "READ MB/S",
        "WRITE MB/S",
        "SECONDS",
    ];
    const WIDE: usize = 5;
    fn id(&self) -> String {
        self.disk_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let mb = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        vec![
            self.time_stamp.clone(),
            self.iops_total.to_string(),
            self.iops_limit.to_string(),
            mb(self.bps_total),
            mb(self.bps_limit),
            format!("{}%", self.level_percent),
            format!("{}%", self.throttled_percent),
            self.latency_read.to_string(),
            self.latency_write.to_string(),
            self.errors.to_string(),
            self.iops_read.to_string(),
            self.iops_write.to_string(),
            mb(self.bps_read),
            mb(self.bps_write),
            format!("{:.1}", self.period_ms as f64 / 1000.0),
        ]
    }
}

pub(super) async fn monitor(context: &Context, arguments: MonitorArguments) -> Result<()> {
    loop {
        let request = DescribeDiskMonitorDataRequest { disk_id: arguments.id.clone() };
        let answer = context.cloud.disks().describe_disk_monitor_data(request).await?;
        let data = answer.into_inner().monitor_data;
        let Some(seconds) = arguments.every else {
            if data.is_empty() {
                return Err(Error::Failed(format!(
                    "nothing is known of what disk {} does: it has to be at an instance that runs, \
                     and its host has to have reported twice",
                    arguments.id
                )));
            }
            table::print(context.format, &data);
            return Ok(());
        };
        table::print(context.format, &data);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}
