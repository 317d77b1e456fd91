//! `ecs-vmm ctl`: the control protocol for people.

use api::vmm::{
    DiskLimit, Event, Flush, GetInfo, GetStats, Pause, PowerButton, Resume, SetDiskLimit,
    Subscribe, Terminate, request::Op, response::Result as Answer,
};
use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode};
use vmm::{
    config::parse_size,
    control::client::{Client, ClientError},
    say::say,
};

/// Arguments of `ecs-vmm ctl`.
#[derive(Debug, Args)]
pub struct CtlArguments {
    /// Control socket of the machine
    #[arg(long)]
    socket: PathBuf,
    #[command(subcommand)]
    request: Request,
}

#[derive(Debug, Subcommand)]
enum Request {
    /// Which instance it is, and its state
    Info,
    /// Press the power button: the guest shuts down if it listens
    PowerButton,
    /// Stop the vCPUs
    Pause,
    /// Let the vCPUs go on
    Resume,
    /// Flush the disks and end the machine without asking the guest
    Terminate,
    /// Make completed writes of all disks last
    Flush,
    /// What the devices have done so far
    Stats,
    /// Change a disk's sustained rate
    SetDiskLimit {
        /// ECS id of the disk
        disk: String,
        /// Requests per second, 0 for unlimited
        #[arg(long, default_value_t = 0)]
        iops: u64,
        /// Bytes per second, e.g. 100M, 0 for unlimited
        #[arg(long, default_value = "0", value_parser = parse_size)]
        bandwidth: u64,
    },
    /// Print what happens, as it happens, until the machine ends
    Events,
}

/// Puts the request to the machine and prints the answer.
pub fn run(arguments: &CtlArguments) -> ExitCode {
    match perform(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{}: {error}", arguments.socket.display()));
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &CtlArguments) -> Result<(), ClientError> {
    let mut client = Client::connect(&arguments.socket)?;
    let op = match &arguments.request {
        Request::Info => Op::GetInfo(GetInfo {}),
        Request::PowerButton => Op::PowerButton(PowerButton {}),
        Request::Pause => Op::Pause(Pause {}),
        Request::Resume => Op::Resume(Resume {}),
        Request::Terminate => Op::Terminate(Terminate {}),
        Request::Flush => Op::Flush(Flush {}),
        Request::Stats => Op::GetStats(GetStats {}),
        Request::SetDiskLimit { disk, iops, bandwidth } => {
            let limit = DiskLimit { iops: *iops, bytes_per_second: *bandwidth };
            Op::SetDiskLimit(SetDiskLimit { disk_id: disk.clone(), limit: Some(limit) })
        }
        Request::Events => return follow(&mut client),
    };
    match client.call(op)? {
        Answer::Info(info) => {
            println!("instance    {}", info.instance_id);
            println!("state       {}", state_name(info.state().as_str_name()));
            println!("pid         {}", info.pid);
            println!("boot epoch  {}", info.boot_epoch);
            println!("version     {}", info.version);
        }
        Answer::Stats(stats) => {
            println!("vcpu exits  {}", stats.vcpu_exits);
            for disk in stats.disks {
                println!(
                    "{}  reads {} ({} B)  writes {} ({} B)  flushes {}  discards {}  errors {}  \
                     throttled {} ns",
                    disk.disk_id,
                    disk.reads,
                    disk.read_bytes,
                    disk.writes,
                    disk.write_bytes,
                    disk.flushes,
                    disk.discards,
                    disk.errors,
                    disk.throttled_ns
                );
            }
            for nic in stats.nics {
                println!(
                    "{}  received {} ({} B)  sent {} ({} B)",
                    nic.eni_id, nic.rx_packets, nic.rx_bytes, nic.tx_packets, nic.tx_bytes
                );
            }
        }
        _ => println!("done"),
    }
    Ok(())
}

fn follow(client: &mut Client) -> Result<(), ClientError> {
    client.call(Op::Subscribe(Subscribe {}))?;
    while let Some(event) = client.next_event()? {
        print_event(&event);
    }
    Ok(())
}

fn print_event(event: &Event) {
    let state = state_name(event.state().as_str_name());
    println!("{} {:>3} {state:<9} {}", event.unix_ms, event.sequence, event.message);
}

fn state_name(name: &str) -> String {
    name.trim_start_matches("VM_STATE_").to_lowercase()
}
