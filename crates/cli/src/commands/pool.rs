//! `ecsctl pool`.

use super::Context;
use crate::{
    error::Result,
    output::table::{self, Row},
};
use api::v1::{DescribeStoragePoolsRequest, StoragePool, StoragePoolHost};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Lists storage pools: what each has, and how much of it is promised to disks
    #[command(
        after_help = "Examples:\n  ecsctl pool list -o wide\n  ecsctl pool list --host h-1\n\n\
        LIMIT is (capacity - reserve) x over-commit; PROVISIONED is the sum of the disks' sizes, \
        SNAPSHOTS what snapshots alone keep. A shared pool has several hosts. `ecsctl disk list --pool ID` lists a pool's disks."
    )]
    List {
        /// Pool ids; left out: all
        ids: Vec<String>,
        /// Only pools of this host
        #[arg(long, default_value = "", hide_default_value = true)]
        host: String,
    },
    /// Shows one storage pool
    #[command(after_help = "Example:\n  ecsctl pool show pool-1")]
    Show {
        /// Pool id
        id: String,
    },
}

impl Row for StoragePool {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "HOST",
        "STATUS",
        "CAPACITY",
        "AVAILABLE",
        "LIMIT GIB",
        "PROVISIONED GIB",
        "SNAPSHOTS",
        "DISKS",
        "OVERCOMMIT",
        "RESERVE",
        "ZONE",
        "PATH",
        "REASON",
    ];
    const WIDE: usize = 5;
    fn id(&self) -> String {
        self.pool_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.pool_id.clone(),
            self.pool_name.clone(),
            if self.shared { hosts(self) } else { self.host_id.clone() },
            self.status.clone(),
            size(self.capacity_bytes),
            size(self.available_bytes),
            self.limit_gib.to_string(),
            self.provisioned_gib.to_string(),
            size(self.snapshot_bytes),
            self.disks.to_string(),
            format!("{}", self.overcommit),
            size(self.reserve_bytes),
            self.zone_id.clone(),
            if self.shared { paths(self) } else { self.path.clone() },
            if self.shared { reasons(self) } else { self.status_reason.clone() },
        ]
    }
}

/// Of a shared pool: its hosts, those that do not have it now with their state.
fn hosts(pool: &StoragePool) -> String {
    let of = |host: &StoragePoolHost| match host.status.as_str() {
        "Ready" | "Low" => host.host_id.clone(),
        other => format!("{} ({other})", host.host_id),
    };
    pool.hosts.iter().map(of).collect::<Vec<_>>().join(" ")
}

fn paths(pool: &StoragePool) -> String {
    let mut paths: Vec<&str> = pool.hosts.iter().map(|host| host.path.as_str()).collect();
    paths.dedup();
    paths.join(" ")
}

fn reasons(pool: &StoragePool) -> String {
    let told = pool.hosts.iter().filter(|host| !host.status_reason.is_empty());
    let of = |host: &StoragePoolHost| format!("{}: {}", host.host_id, host.status_reason);
    told.map(of).collect::<Vec<_>>().join("; ")
}

/// For people; `-o json` has the bytes.
fn size(bytes: u64) -> String {
    if bytes < 10 << 30 { format!("{} MiB", bytes >> 20) } else { format!("{} GiB", bytes >> 30) }
}

pub(crate) async fn run(context: &Context, command: PoolCommand) -> Result<()> {
    let mut service = context.cloud.operator();
    match command {
        PoolCommand::List { ids, host } => {
            let request = DescribeStoragePoolsRequest { pool_ids: ids, host_id: host };
            let answer = service.describe_storage_pools(request).await?.into_inner();
            table::print(context.format, &answer.pools);
        }
        PoolCommand::Show { id } => {
            let request = DescribeStoragePoolsRequest { pool_ids: vec![id], ..Default::default() };
            let answer = service.describe_storage_pools(request).await?.into_inner();
            // One that does not exist was refused.
            answer.pools.iter().for_each(|pool| table::print_one(context.format, pool));
        }
    }
    Ok(())
}
