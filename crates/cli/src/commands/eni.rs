//! `ecsctl eni`.

use super::{Context, pages};
use crate::{
    error::Result,
    output::table::{self, Row},
};
use api::v1::{DescribeNetworkInterfacesRequest, NetworkInterface};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum EniCommand {
    /// Lists network interfaces
    #[command(after_help = "Example:\n  ecsctl eni list --instance i-1")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        instance: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        vpc: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        vswitch: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        security_group: String,
    },
}

impl Row for NetworkInterface {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "ADDRESS",
        "MAC",
        "TYPE",
        "STATUS",
        "INSTANCE",
        "VSWITCH",
        "VPC",
        "SECURITY GROUPS",
    ];
    const WIDE: usize = 3;
    fn id(&self) -> String {
        self.network_interface_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.network_interface_id.clone(),
            self.private_ip_address.clone(),
            self.mac_address.clone(),
            self.r#type.clone(),
            self.status.clone(),
            self.instance_id.clone(),
            self.v_switch_id.clone(),
            self.vpc_id.clone(),
            self.security_group_ids.join(" "),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: EniCommand) -> Result<()> {
    let mut service = context.cloud.vpcs();
    let EniCommand::List { ids, instance, vpc, vswitch, security_group } = command;
    let interfaces = pages::all(async |page_number| {
        let request = DescribeNetworkInterfacesRequest {
            region_id: context.region.clone(),
            network_interface_id: ids.clone(),
            instance_id: instance.clone(),
            v_switch_id: vswitch.clone(),
            vpc_id: vpc.clone(),
            security_group_id: security_group.clone(),
            page_number,
            page_size: pages::PAGE_SIZE,
        };
        let answer = service.describe_network_interfaces(request).await?.into_inner();
        Ok((answer.network_interface_sets, answer.total_count))
    })
    .await?;
    table::print(context.format, &interfaces);
    Ok(())
}
