//! `ecsctl eni`.

mod change;
mod create;
mod wait;

use super::{Context, pages};
use crate::{
    error::{Error, Result},
    output::table::{self, Row},
};
use api::v1::{DescribeNetworkInterfacesRequest, NetworkInterface, Tag};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum EniCommand {
    /// Creates a secondary network interface
    #[command(after_help = create::EXAMPLES)]
    Create(create::CreateArguments),
    /// Attaches an interface to a running or stopped instance
    #[command(after_help = "Example:\n  ecsctl eni attach eni-1 i-1 --wait")]
    Attach(change::AttachArguments),
    /// Detaches an interface; take it down in the guest first
    #[command(after_help = "Example:\n  ecsctl eni detach eni-1 --wait")]
    Detach(change::DetachArguments),
    /// Deletes interfaces that are attached nowhere
    #[command(after_help = "Example:\n  ecsctl eni delete eni-1 eni-2")]
    Delete {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Lists network interfaces
    #[command(after_help = "Examples:\n  ecsctl eni list --instance i-1 -o wide\n  \
        ecsctl eni list --status Available --tag env=test\n  \
        ecsctl eni list --address 172.16.1.7")]
    List(ListArguments),
    /// Shows all of one interface
    #[command(after_help = "Example:\n  ecsctl eni show eni-1")]
    Show { id: String },
    /// Changes names, security groups and what becomes of an interface
    #[command(after_help = "Examples:\n  ecsctl eni modify eni-1 --name backend\n  \
        ecsctl eni modify eni-1 --security-group sg-1 --security-group sg-2\n  \
        ecsctl eni modify eni-1 --delete-on-release false\n  \
        ecsctl eni modify eni-1 --source-dest-check false    it may forward what is for others")]
    Modify(change::ModifyArguments),
    /// Gives an interface more private addresses
    #[command(after_help = "Examples:\n  ecsctl eni assign-ip eni-1 --count 2\n  \
        ecsctl eni assign-ip eni-1 172.16.1.10 172.16.1.11\n\n\
        The guest has to be told of them, e.g. ip address add 172.16.1.10/24 dev eth1.")]
    AssignIp(change::AssignArguments),
    /// Gives an interface IPv6 addresses
    #[command(after_help = "Examples:\n  ecsctl eni assign-ipv6 eni-1 --count 1\n  \
        ecsctl eni assign-ipv6 eni-1 fdec:0:1:7::10\n\n\
        Its VSwitch has IPv6 (`ecsctl vswitch modify VSW --ipv6 BYTE`). The guest gets them by DHCPv6.")]
    AssignIpv6(change::AssignArguments),
    /// Takes IPv6 addresses from an interface
    #[command(after_help = "Example:\n  ecsctl eni unassign-ipv6 eni-1 fdec:0:1:7::10")]
    UnassignIpv6 {
        id: String,
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Takes secondary private addresses from an interface
    #[command(after_help = "Example:\n  ecsctl eni unassign-ip eni-1 172.16.1.10")]
    UnassignIp {
        id: String,
        #[arg(required = true)]
        addresses: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
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
    /// * stands for anything
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Available, Attaching, InUse or Detaching
    #[arg(long, default_value = "", hide_default_value = true)]
    status: String,
    /// Primary or Secondary
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    eni_type: String,
    /// Only interfaces with this address, IPv4 or IPv6; several for more
    #[arg(long = "address")]
    addresses: Vec<String>,
    /// KEY=VALUE, or KEY= for any value; several for more
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<Tag>,
}

impl Row for NetworkInterface {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "ADDRESS",
        "MORE",
        "MAC",
        "TYPE",
        "STATUS",
        "INSTANCE",
        "VSWITCH",
        "VPC",
        "SECURITY GROUPS",
        "PUBLIC",
        "IPV6",
        "HOST",
        "REASON",
    ];
    const WIDE: usize = 7;
    fn id(&self) -> String {
        self.network_interface_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let more: Vec<&str> = self
            .private_ip_sets
            .iter()
            .filter(|one| !one.primary)
            .map(|one| one.private_ip_address.as_str())
            .collect();
        let of_all = self.private_ip_sets.iter().filter_map(|ip| ip.associated_public_ip.as_ref());
        let ipv6 = self.ipv6_sets.iter().map(|one| one.ipv6_address.as_str());
        let public = of_all.map(|public| public.public_ip_address.as_str());
        vec![
            self.network_interface_id.clone(),
            self.network_interface_name.clone(),
            self.private_ip_address.clone(),
            match more.as_slice() {
                [] => String::new(),
                [one] => (*one).to_owned(),
                several => format!("{} addresses", several.len()),
            },
            self.mac_address.clone(),
            self.r#type.clone(),
            self.status.clone(),
            self.instance_id.clone(),
            self.v_switch_id.clone(),
            self.vpc_id.clone(),
            self.security_group_ids.join(" "),
            public.collect::<Vec<_>>().join(" "),
            ipv6.collect::<Vec<_>>().join(" "),
            self.host_id.clone(),
            self.status_reason.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: EniCommand) -> Result<()> {
    match command {
        EniCommand::Create(arguments) => create::create(context, arguments).await,
        EniCommand::Attach(arguments) => change::attach(context, arguments).await,
        EniCommand::Detach(arguments) => change::detach(context, arguments).await,
        EniCommand::Delete { ids } => change::delete(context, ids).await,
        EniCommand::Modify(arguments) => change::modify(context, arguments).await,
        EniCommand::AssignIp(arguments) => change::assign(context, arguments).await,
        EniCommand::UnassignIp { id, addresses } => change::unassign(context, id, addresses).await,
        EniCommand::AssignIpv6(arguments) => change::assign_ipv6(context, arguments).await,
        EniCommand::UnassignIpv6 { id, addresses } => {
            change::unassign_ipv6(context, id, addresses).await
        }
        EniCommand::Show { id } => {
            table::print_one(context.format, &find(context, &id).await?);
            Ok(())
        }
        EniCommand::List(arguments) => {
            let (ipv6_address, private_ip_address) =
                arguments.addresses.into_iter().partition(|address| address.contains(':'));
            let request = DescribeNetworkInterfacesRequest {
                ipv6_address,
                network_interface_id: arguments.ids,
                instance_id: arguments.instance,
                v_switch_id: arguments.vswitch,
                vpc_id: arguments.vpc,
                security_group_id: arguments.security_group,
                network_interface_name: arguments.name,
                status: arguments.status,
                r#type: arguments.eni_type,
                private_ip_address,
                tag: arguments.tags,
                ..Default::default()
            };
            table::print(context.format, &describe(context, request).await?);
            Ok(())
        }
    }
}

async fn describe(
    context: &Context,
    request: DescribeNetworkInterfacesRequest,
) -> Result<Vec<NetworkInterface>> {
    let mut service = context.cloud.network_interfaces();
    pages::all(async |page_number| {
        let request = DescribeNetworkInterfacesRequest {
            region_id: context.region.clone(),
            page_number,
            page_size: pages::PAGE_SIZE,
            ..request.clone()
        };
        let answer = service.describe_network_interfaces(request).await?.into_inner();
        Ok((answer.network_interface_sets, answer.total_count))
    })
    .await
}

async fn by_ids(context: &Context, ids: &[String]) -> Result<Vec<NetworkInterface>> {
    let request = DescribeNetworkInterfacesRequest {
        network_interface_id: ids.to_vec(),
        ..Default::default()
    };
    describe(context, request).await
}

async fn find(context: &Context, id: &str) -> Result<NetworkInterface> {
    by_ids(context, &[id.to_owned()]).await?.into_iter().next().ok_or_else(|| {
        Error::NotFound(format!("there is no network interface {id}; `ecsctl eni list` shows all"))
    })
}
