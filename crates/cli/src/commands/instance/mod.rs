//! `ecsctl instance`.

mod create;
mod modify;
mod power;
mod public_ip;
mod query;
mod wait;

use super::Context;
use crate::{error::Result, output::table::Row};
use api::v1::{Instance, InstanceResponse, InstanceStatus, InstanceSystemEvent};
use clap::Subcommand;

pub(crate) use query::find;

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Creates instances and starts them
    #[command(after_help = create::RUN_EXAMPLES)]
    Run(create::RunArguments),
    /// Creates one instance that ends Stopped
    #[command(
        after_help = "Example:\n  ecsctl instance create --image m-1 --type ecs.c7.large --vswitch vsw-1 --security-group sg-1"
    )]
    Create(create::CreateArguments),
    /// Starts stopped instances
    #[command(after_help = "Example:\n  ecsctl instance start i-1 --wait")]
    Start(power::StartArguments),
    /// Stops instances: asks the guest first, then insists
    #[command(
        after_help = "Examples:\n  ecsctl instance stop i-1 --wait\n  ecsctl instance stop i-1 i-2 --force"
    )]
    Stop(power::StopArguments),
    /// Reboots instances
    #[command(after_help = "Example:\n  ecsctl instance reboot i-1 --wait")]
    Reboot(power::RebootArguments),
    /// Changes an instance's name, description, host name, user data or deletion protection
    #[command(after_help = modify::EXAMPLES)]
    Modify(modify::ModifyArguments),
    /// Gives an instance a static public address, which goes with it
    #[command(after_help = public_ip::EXAMPLES)]
    AllocatePublicIp(public_ip::AllocateArguments),
    /// Makes an instance's static public address an EIP, which outlives it
    #[command(after_help = "Example:\n  ecsctl instance convert-public-ip i-1")]
    ConvertPublicIp { id: String },
    /// Deletes instances and what goes with them
    #[command(
        after_help = "Examples:\n  ecsctl instance delete i-1 --wait\n  ecsctl instance delete i-1 i-2 --force"
    )]
    Delete(power::DeleteArguments),
    /// Lists instances
    #[command(
        after_help = "Examples:\n  ecsctl instance list --status Running --tag role=web\n  ecsctl instance list -o wide"
    )]
    List(query::ListArguments),
    /// Shows all of one instance
    #[command(after_help = "Example:\n  ecsctl instance show i-1 -o json")]
    Show { id: String },
    /// Lists instances' states alone
    #[command(after_help = "Example:\n  ecsctl instance status i-1 i-2")]
    Status {
        /// Ids; left out: all
        ids: Vec<String>,
    },
    /// Prints the last 64 KiB of the serial console
    #[command(after_help = "Example:\n  ecsctl instance console-output i-1 --plain | tail")]
    ConsoleOutput {
        id: String,
        /// Without control characters
        #[arg(long)]
        plain: bool,
    },
    /// Prints an instance's user data
    #[command(after_help = "Example:\n  ecsctl instance user-data i-1 > cloud-config.yaml")]
    UserData { id: String },
    /// Lists what has happened to instances, newest first
    #[command(
        after_help = "Examples:\n  ecsctl instance events i-1\n  ecsctl instance events --type SystemFailure.Reboot"
    )]
    Events {
        /// Left out: all instances
        #[arg(default_value = "", hide_default_value = true)]
        id: String,
        /// Event types, e.g. SystemFailure.Reboot
        #[arg(long = "type")]
        types: Vec<String>,
    },
}

impl Row for Instance {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "STATUS",
        "TYPE",
        "ADDRESS",
        "PUBLIC",
        "ZONE",
        "CREATED",
        "IMAGE",
        "VPC",
        "VSWITCH",
        "SECURITY GROUPS",
        "KEY PAIR",
        "IPV6",
        "HOST",
        "REASON",
    ];
    const WIDE: usize = 8;
    fn id(&self) -> String {
        self.instance_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let vpc = self.vpc_attributes.clone().unwrap_or_default();
        let eip = self.eip_address.iter().map(|eip| eip.ip_address.clone());
        let ipv6 = self.network_interfaces.iter().flat_map(|eni| &eni.ipv6_address).cloned();
        let public: Vec<String> = self.public_ip_address.iter().cloned().chain(eip).collect();
        vec![
            self.instance_id.clone(),
            self.instance_name.clone(),
            self.status.clone(),
            self.instance_type.clone(),
            vpc.private_ip_address.join(" "),
            public.join(" "),
            self.zone_id.clone(),
            self.creation_time.clone(),
            self.image_id.clone(),
            vpc.vpc_id,
            vpc.v_switch_id,
            self.security_group_ids.join(" "),
            self.key_pair_name.clone(),
            ipv6.collect::<Vec<_>>().join(" "),
            self.host_id.clone(),
            self.status_reason.clone(),
        ]
    }
}

impl Row for InstanceStatus {
    const COLUMNS: &'static [&'static str] = &["ID", "STATUS"];
    fn id(&self) -> String {
        self.instance_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![self.instance_id.clone(), self.status.clone()]
    }
}

impl Row for InstanceSystemEvent {
    const COLUMNS: &'static [&'static str] =
        &["TIME", "INSTANCE", "EVENT", "STATUS", "REASON", "ID"];
    const WIDE: usize = 1;
    fn id(&self) -> String {
        self.event_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.event_publish_time.clone(),
            self.instance_id.clone(),
            self.event_type.clone(),
            self.event_cycle_status.clone(),
            self.reason.clone(),
            self.event_id.clone(),
        ]
    }
}

impl Row for InstanceResponse {
    const COLUMNS: &'static [&'static str] = &["ID", "BEFORE", "NOW", "CODE", "MESSAGE"];
    fn id(&self) -> String {
        self.instance_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.instance_id.clone(),
            self.previous_status.clone(),
            self.current_status.clone(),
            self.code.clone(),
            self.message.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: InstanceCommand) -> Result<()> {
    match command {
        InstanceCommand::Run(arguments) => create::run(context, arguments).await,
        InstanceCommand::Create(arguments) => create::create(context, arguments).await,
        InstanceCommand::Start(arguments) => power::start(context, arguments).await,
        InstanceCommand::Stop(arguments) => power::stop(context, arguments).await,
        InstanceCommand::Reboot(arguments) => power::reboot(context, arguments).await,
        InstanceCommand::Modify(arguments) => modify::modify(context, arguments).await,
        InstanceCommand::AllocatePublicIp(arguments) => {
            public_ip::allocate(context, arguments).await
        }
        InstanceCommand::ConvertPublicIp { id } => public_ip::convert(context, id).await,
        InstanceCommand::Delete(arguments) => power::delete(context, arguments).await,
        InstanceCommand::List(arguments) => query::list(context, arguments).await,
        InstanceCommand::Show { id } => query::show(context, &id).await,
        InstanceCommand::Status { ids } => query::status(context, ids).await,
        InstanceCommand::ConsoleOutput { id, plain } => {
            query::console_output(context, id, plain).await
        }
        InstanceCommand::UserData { id } => query::user_data(context, id).await,
        InstanceCommand::Events { id, types } => query::events(context, id, types).await,
    }
}
