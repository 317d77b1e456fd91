//! `DescribeDiskMonitorData`.

use super::Api;
use crate::{disk_metrics::Period, timestamp};
use api::v1::{DescribeDiskMonitorDataRequest, DescribeDiskMonitorDataResponse, DiskMonitorData};
use store::{DiskRecord, Refusal};

impl Api {
    pub(super) async fn describe_disk_monitor_data(
        &self,
        request: DescribeDiskMonitorDataRequest,
    ) -> Result<DescribeDiskMonitorDataResponse, Refusal> {
        let disk = self.find_disk(&request.disk_id).await?;
        let period = self.cloud.metrics.latest(&disk.disk_id);
        let monitor_data: Vec<_> = period.iter().map(|period| describe(&disk, period)).collect();
        let total_count = u32::from(!monitor_data.is_empty());
        Ok(DescribeDiskMonitorDataResponse { request_id: String::new(), monitor_data, total_count })
    }
}

fn describe(disk: &DiskRecord, period: &Period) -> DiskMonitorData {
    let requests = period.reads.saturating_add(period.writes);
    let bytes = period.read_bytes.saturating_add(period.write_bytes);
    let (iops_total, bps_total) = (period.per_second(requests), period.per_second(bytes));
    let percent = |part: u64, whole: u64| {
        if whole == 0 { 0.0 } else { (part as f64 * 1000.0 / whole as f64).round() / 10.0 }
    };
    DiskMonitorData {
        disk_id: disk.disk_id.clone(),
        time_stamp: timestamp::second(i64::try_from(period.end_ms).unwrap_or(0)),
        period_ms: period.length_ms,
        iops_read: period.per_second(period.reads),
        iops_write: period.per_second(period.writes),
        iops_total,
        bps_read: period.per_second(period.read_bytes),
        bps_write: period.per_second(period.write_bytes),
        bps_total,
        latency_read: period.read_latency_us,
        latency_write: period.write_latency_us,
        iops_limit: disk.iops,
        bps_limit: disk.bytes_per_second,
        level_percent: percent(iops_total, disk.iops)
            .max(percent(bps_total, disk.bytes_per_second)),
        throttled_percent: percent(period.throttled, requests).min(100.0),
        errors: period.errors,
    }
}
