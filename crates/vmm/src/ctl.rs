//! `ecs-vmm ctl`: the control protocol for people.

use api::vmm::{
    AttachedDisk, DetachDisk, Disk, DiskLimit, Event, Flush, GetInfo, GetStats, Pause, PowerButton,
    ResizeDisk, Resume, SetDiskLimit, Subscribe, SwitchLayers, Terminate, request::Op,
    response::Result as Answer,
};
use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode};
use vmm::{
    config::{DiskArgument, parse_size},
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
    /// Plug a disk in
    AttachDisk {
        /// ECS id of the disk
        disk: String,
        /// PATH[,format=raw|qcow2][,ro][,queues=N][,backing=PATH...]
        files: DiskArgument,
        /// PCI device number, 0 for the next free one
        #[arg(long, default_value_t = 0)]
        slot: u32,
    },
    /// Ask the guest to let a disk go
    DetachDisk {
        /// ECS id of the disk
        disk: String,
        /// Take it out without the guest
        #[arg(long)]
        force: bool,
    },
    /// Grow a disk
    ResizeDisk {
        /// ECS id of the disk
        disk: String,
        /// New size, e.g. 40G
        #[arg(value_parser = parse_size)]
        size: u64,
    },
    /// Put a disk on other layers
    SwitchLayers {
        /// ECS id of the disk
        disk: String,
        /// What the layers are called, a number other than the present one
        epoch: u64,
        /// An empty qcow2 overlay to write to from now on
        #[arg(long)]
        top: Option<String>,
        /// A layer below, upper first; may be repeated
        #[arg(long)]
        backing: Vec<String>,
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
        Request::AttachDisk { disk, files, slot } => {
            let answer = client.attach(Disk { slot: *slot, ..files.clone().describe(disk) })?;
            print(answer);
            return Ok(());
        }
        Request::SwitchLayers { disk, epoch, top, backing } => {
            let answer = client.switch_layers(SwitchLayers {
                disk_id: disk.clone(),
                chain_epoch: *epoch,
                top: DiskArgument::layers(top.as_slice()).pop(),
                backing: DiskArgument::layers(backing),
                key: None,
            })?;
            print(answer);
            return Ok(());
        }
        Request::Events => return follow(&mut client),
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
        Request::DetachDisk { disk, force } => {
            Op::DetachDisk(DetachDisk { disk_id: disk.clone(), force: *force })
        }
        Request::ResizeDisk { disk, size } => {
            Op::ResizeDisk(ResizeDisk { disk_id: disk.clone(), size_bytes: *size })
        }
    };
    print(client.call(op)?);
    Ok(())
}

fn print(answer: Answer) {
    match answer {
        Answer::Info(info) => {
            println!("instance    {}", info.instance_id);
            println!("state       {}", state_name(info.state().as_str_name()));
            println!("pid         {}", info.pid);
            println!("boot epoch  {}", info.boot_epoch);
            println!("version     {}", info.version);
            info.disks.iter().for_each(print_disk);
        }
        Answer::Stats(stats) => {
            println!("vcpu exits  {}", stats.vcpu_exits);
            for disk in stats.disks {
                println!(
                    "{}  reads {} ({} B)  writes {} ({} B)  flushes {}  discards {}  errors {}  \
                     throttled {} ({} ns)",
                    disk.disk_id,
                    disk.reads,
                    disk.read_bytes,
                    disk.writes,
                    disk.write_bytes,
                    disk.flushes,
                    disk.discards,
                    disk.errors,
                    disk.throttled,
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
        Answer::LayersSwitched(switched) => println!("paused for {} ns", switched.paused_ns),
        _ => println!("done"),
    }
}

fn print_disk(disk: &AttachedDisk) {
    let limit = disk.limit.unwrap_or_default();
    println!(
        "disk        {}  slot {}  {} B  epoch {}  limit {} IOPS {} B/s{}{}",
        disk.disk_id,
        disk.slot,
        disk.size_bytes,
        disk.chain_epoch,
        limit.iops,
        limit.bytes_per_second,
        if disk.in_use { "  in use" } else { "" },
        if disk.detaching { "  detaching" } else { "" },
    );
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
