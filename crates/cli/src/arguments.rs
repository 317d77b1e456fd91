//! The command line.

use crate::{
    commands::{
        catalog::{InstanceTypeCommand, RegionCommand, ZoneCommand},
        connect::{ConsoleArguments, SshArguments, TunnelArguments},
        disk::DiskCommand,
        eip::EipCommand,
        eni::EniCommand,
        host::HostCommand,
        image::ImageCommand,
        instance::InstanceCommand,
        key_pair::KeyPairCommand,
        nat_gateway::NatGatewayCommand,
        net::NetCommand,
        pool::PoolCommand,
        prefix_list::PrefixListCommand,
        route_table::RouteTableCommand,
        security_group::SecurityGroupCommand,
        snapshot::SnapshotCommand,
        snapshot_policy::SnapshotPolicyCommand,
        vpc::VpcCommand,
        vswitch::VswitchCommand,
    },
    lab::LabCommand,
    output::OutputOption,
};
use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// Elastic Compute Service on your own machines.
#[derive(Debug, Parser)]
#[command(
    name = "ecsctl",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  \
        ecsctl lab up                                   a whole cloud on this machine\n  \
        ecsctl image import debian-12.qcow2 --name debian-12\n  \
        ecsctl instance run --image IMAGE --type ecs.c7.large --vswitch VSW --security-group SG --wait\n  \
        ecsctl ssh INSTANCE -i KEY\n  \
        ecsctl console INSTANCE                         the serial console; ~. leaves it\n\n\
        Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 3 not found, 4 timed out, \
        5 no cloud answers."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// URL of the controller; default: the lab's, else http://127.0.0.1:7800
    #[arg(long, global = true, env = "ECS_ENDPOINT")]
    pub(crate) endpoint: Option<String>,
    /// Region; default: the cloud's own
    #[arg(long, global = true, env = "ECS_REGION", default_value = "", hide_default_value = true)]
    pub(crate) region: String,
    /// How to show answers
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: OutputOption,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Instances: create, start, stop, look into
    #[command(subcommand)]
    Instance(Box<InstanceCommand>),
    /// Images that disks are made of
    #[command(subcommand)]
    Image(ImageCommand),
    /// Virtual private clouds
    #[command(subcommand)]
    Vpc(VpcCommand),
    /// VSwitches: subnets of VPCs
    #[command(subcommand)]
    Vswitch(VswitchCommand),
    /// Route tables and their entries
    #[command(subcommand)]
    RouteTable(RouteTableCommand),
    /// Elastic IP addresses: public addresses
    #[command(subcommand)]
    Eip(EipCommand),
    /// NAT gateways: public addresses that many share
    #[command(subcommand)]
    NatGateway(NatGatewayCommand),
    /// Address ranges that rules name together
    #[command(subcommand)]
    PrefixList(PrefixListCommand),
    /// What becomes of a packet, and what a VPC looks like
    #[command(subcommand)]
    Net(NetCommand),
    /// Security groups and their rules
    #[command(subcommand, visible_alias = "sg")]
    SecurityGroup(SecurityGroupCommand),
    /// SSH key pairs
    #[command(subcommand)]
    KeyPair(KeyPairCommand),
    /// Instance types and families
    #[command(subcommand)]
    InstanceType(InstanceTypeCommand),
    /// Disks
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Snapshots of disks
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Policies by which snapshots are taken
    #[command(subcommand)]
    SnapshotPolicy(SnapshotPolicyCommand),
    /// Elastic network interfaces
    #[command(subcommand)]
    Eni(EniCommand),
    /// Regions
    #[command(subcommand)]
    Region(RegionCommand),
    /// Zones
    #[command(subcommand)]
    Zone(ZoneCommand),
    /// The machines that instances run on
    #[command(subcommand)]
    Host(HostCommand),
    /// The directories of hosts that disks lie in
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Attaches to an instance's serial console
    Console(ConsoleArguments),
    /// Logs in to an instance, or runs a command there, with the system's ssh
    Ssh(SshArguments),
    /// Joins standard input and output, or a local port, to a TCP port of an instance
    Tunnel(TunnelArguments),
    /// A whole cloud on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    /// Prints a completion script
    #[command(
        after_help = "Examples:\n  ecsctl completion bash > /etc/bash_completion.d/ecsctl\n  \
        ecsctl completion zsh > /usr/local/share/zsh/site-functions/_ecsctl\n  \
        ecsctl completion fish > ~/.config/fish/completions/ecsctl.fish"
    )]
    Completion {
        /// For which shell
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_has_an_example() {
        fn look(command: &clap::Command, path: &str, without: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let mut below = command.get_subcommands().filter(|sub| !sub.is_hide_set()).peekable();
            if below.peek().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                if !help.contains(path.trim()) {
                    without.push(path.clone());
                }
            }
            below.for_each(|sub| look(sub, &path, without));
        }
        let mut without = Vec::new();
        look(&Arguments::command(), "", &mut without);
        assert!(without.is_empty(), "no example in the help of {without:?}");
    }
}
