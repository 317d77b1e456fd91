//! `ecsctl host`.

use super::Context;
use crate::{
    error::{Error, Result},
    output::table::{self, Row},
};
use api::v1::{DescribeHostsRequest, Host, ListHostObjectsRequest, OwnedObject};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Lists hosts
    #[command(after_help = "Example:\n  ecsctl host list -o wide")]
    List,
    /// Lists what agents have on their hosts, and whom it belongs to
    #[command(
        after_help = "Example:\n  ecsctl host objects --leaks    fails when something has no owner"
    )]
    Objects {
        /// Host id; left out: all
        #[arg(default_value = "", hide_default_value = true)]
        host: String,
        /// Only what no known resource owns; exit code 1 if there is any
        #[arg(long)]
        leaks: bool,
    },
}

impl Row for Host {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "ZONE",
        "STATUS",
        "VCPUS",
        "MEMORY MIB",
        "DISK GIB",
        "INSTANCES",
        "LAST SEEN",
        "KVM",
        "ACCESS",
        "UNDERLAY",
        "VERSION",
    ];
    const WIDE: usize = 4;
    fn id(&self) -> String {
        self.host_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.host_id.clone(),
            self.hostname.clone(),
            self.zone_id.clone(),
            self.status.clone(),
            format!("{} of {}", self.vcpus_used, self.vcpus),
            format!("{} of {}", self.memory_mib_used, self.memory_mib),
            format!("{} of {}", self.disk_gib_used, self.disk_gib),
            self.instances.to_string(),
            self.last_seen.clone(),
            self.kvm.clone(),
            self.access_endpoint.clone(),
            self.underlay_ip.clone(),
            self.version.clone(),
        ]
    }
}

impl Row for OwnedObject {
    const COLUMNS: &'static [&'static str] = &["HOST", "KIND", "NAME", "OWNER", "EXPECTED"];
    fn id(&self) -> String {
        self.name.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.host_id.clone(),
            self.kind.clone(),
            self.name.clone(),
            self.owner.clone(),
            if self.expected { "yes" } else { "no" }.to_owned(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: HostCommand) -> Result<()> {
    let mut service = context.cloud.operator();
    match command {
        HostCommand::List => {
            let answer = service.describe_hosts(DescribeHostsRequest {}).await?.into_inner();
            table::print(context.format, &answer.hosts);
        }
        HostCommand::Objects { host, leaks } => {
            let request = ListHostObjectsRequest { host_id: host };
            let mut objects = service.list_host_objects(request).await?.into_inner().objects;
            if leaks {
                objects.retain(|object| !object.expected);
            }
            table::print(context.format, &objects);
            if leaks && !objects.is_empty() {
                return Err(Error::Failed(format!(
                    "{} object(s) on hosts belong to no known resource",
                    objects.len()
                )));
            }
        }
    }
    Ok(())
}
