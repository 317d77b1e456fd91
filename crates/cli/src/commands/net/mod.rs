//! `ecsctl net`: what becomes of a packet, and what a VPC looks like.

mod svg;

use super::Context;
use crate::{
    error::Result,
    output::{
        Format, json,
        table::{self, Row},
    },
};
use api::v1::{DescribeVpcTopologyRequest, PathHop, TopologyInterface, TracePathRequest};
use clap::{Args, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Follows the first packet of a connection and says what decides at each step
    ///
    /// Nothing is sent: the answer comes from what is wanted. Exit code 1 says that the packet is
    /// dropped.
    #[command(after_help = "Examples:\n  ecsctl net trace --from i-1 --to i-2 --tcp 5432\n  \
        ecsctl net trace --from i-1 --to 8.8.8.8 --udp 53\n  \
        ecsctl net trace --from 198.51.100.7 --to 203.0.113.9 --tcp 80\n  \
        ecsctl net trace --from i-1 --to 172.16.1.9 --icmp")]
    Trace(TraceArguments),
    /// Shows what a VPC is made of; with -o svg as a drawing
    #[command(after_help = "Examples:\n  ecsctl net topology vpc-1\n  \
        ecsctl net topology vpc-1 -o svg > vpc-1.svg")]
    Topology {
        /// The VPC
        vpc: String,
    },
}

impl NetCommand {
    /// Whether the command can draw.
    pub(crate) fn draws(&self) -> bool {
        matches!(self, Self::Topology { .. })
    }
}

#[derive(Debug, Args)]
pub(crate) struct TraceArguments {
    /// An instance, a network interface, a private address, or an address of the internet
    #[arg(long)]
    from: String,
    /// The same, or a public address
    #[arg(long)]
    to: String,
    #[command(flatten)]
    packet: PacketArguments,
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    source_port: u32,
    /// VPC of private addresses, where --from and --to do not say it
    #[arg(long, default_value = "", hide_default_value = true)]
    vpc: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PacketArguments {
    /// A TCP port
    #[arg(long, value_name = "PORT")]
    tcp: Option<u16>,
    /// A UDP port
    #[arg(long, value_name = "PORT")]
    udp: Option<u16>,
    /// An ICMP echo request
    #[arg(long)]
    icmp: bool,
    /// GRE
    #[arg(long)]
    gre: bool,
}

impl PacketArguments {
    fn protocol(&self) -> (&'static str, u32) {
        match (self.tcp, self.udp, self.gre) {
            (Some(port), ..) => ("tcp", port.into()),
            (_, Some(port), _) => ("udp", port.into()),
            (_, _, true) => ("gre", 0),
            _ => ("icmp", 0),
        }
    }
}

impl Row for PathHop {
    const COLUMNS: &'static [&'static str] = &["STEP", "", "DECIDED BY", "WHAT HAPPENS", "PACKET"];
    const WIDE: usize = 1;
    fn id(&self) -> String {
        self.resource_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.step.clone(),
            if self.passed { "pass" } else { "DROP" }.to_owned(),
            self.resource_id.clone(),
            self.message.clone(),
            self.packet.clone(),
        ]
    }
}

/// An interface and the VSwitch it is in.
#[derive(serde::Serialize)]
struct Placed {
    v_switch: String,
    interface: TopologyInterface,
}

impl Row for Placed {
    const COLUMNS: &'static [&'static str] = &[
        "VSWITCH",
        "ADDRESS",
        "PUBLIC",
        "INSTANCE",
        "NAME",
        "STATUS",
        "SECURITY GROUPS",
        "INTERFACE",
        "HOST",
    ];
    const WIDE: usize = 2;
    fn id(&self) -> String {
        self.interface.network_interface_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let interface = &self.interface;
        vec![
            self.v_switch.clone(),
            interface.private_ip_address.clone(),
            interface.public_ip_addresses.join(" "),
            interface.instance_id.clone(),
            interface.instance_name.clone(),
            interface.instance_status.clone(),
            interface.security_group_ids.join(" "),
            interface.network_interface_id.clone(),
            interface.host_id.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: NetCommand, svg: bool) -> Result<ExitCode> {
    let mut service = context.cloud.reachability();
    let region_id = context.region.clone();
    match command {
        NetCommand::Trace(arguments) => {
            let (protocol, destination_port) = arguments.packet.protocol();
            let request = TracePathRequest {
                region_id,
                source: arguments.from,
                destination: arguments.to,
                ip_protocol: protocol.to_owned(),
                destination_port,
                source_port: arguments.source_port,
                vpc_id: arguments.vpc,
            };
            let answer = service.trace_path(request).await?.into_inner();
            match context.format {
                Format::Json => json::print(&answer),
                Format::Name => table::print(Format::Name, &answer.hops),
                format => {
                    table::print(format, &answer.hops);
                    let verdict = if answer.reachable { "Passes" } else { "Does not pass" };
                    println!("\n{verdict}: {}", answer.reason);
                }
            }
            Ok(if answer.reachable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        NetCommand::Topology { vpc } => {
            let request = DescribeVpcTopologyRequest { region_id, vpc_id: vpc };
            let answer = service.describe_vpc_topology(request).await?.into_inner();
            if svg {
                print!("{}", svg::draw(&answer));
            } else if context.format == Format::Json {
                json::print(&answer);
            } else {
                let placed: Vec<Placed> = answer
                    .v_switches
                    .into_iter()
                    .flat_map(|vswitch| {
                        let v_switch = vswitch.v_switch_id;
                        let place =
                            move |interface| Placed { v_switch: v_switch.clone(), interface };
                        vswitch.interfaces.into_iter().map(place)
                    })
                    .collect();
                table::print(context.format, &placed);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
