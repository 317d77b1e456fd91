//! A whole cloud on this machine: `ecsctl lab`.

mod crash;
mod files;
mod layout;
mod machine;
mod monitor;
mod native;
mod probe;
mod process;
mod source_tree;
mod tsc;
mod up;

use crate::{
    client::Cloud,
    error::{Error, Result},
    output::{Format, json, table},
};
use api::v1::DescribeHostsRequest;
use clap::{Args, Subcommand};
use layout::{HostPaths, Kind, Layout, Record};
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

pub(crate) use source_tree::build_images;

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Starts the lab, or what of it does not run, and waits until every host is Ready
    #[command(
        after_help = "Examples:\n  ecsctl lab up\n  ecsctl lab up --hosts 2 --memory 4096\n  \
                            ecsctl lab up --wipe     # forget all instances and images first"
    )]
    Up(UpArguments),
    /// Stops everything the lab runs, instances too; keeps its data
    #[command(after_help = "Examples:\n  ecsctl lab down\n  \
                            ecsctl lab down --wipe     # and delete its instances and images")]
    Down {
        /// Delete its data too: images, disks, the store
        #[arg(long)]
        wipe: bool,
    },
    /// Shows what runs, where, and what the probe found
    #[command(after_help = "Examples:\n  ecsctl lab status\n  ecsctl lab status -o json")]
    Status,
    /// Opens a shell on a host, or runs a command there
    #[command(after_help = "Examples:\n  ecsctl lab ssh\n  \
                            ecsctl lab ssh lab-2 -- ls /var/lib/ecs/disks")]
    Ssh {
        /// lab-1, lab-2, ...
        #[arg(default_value = "lab-1")]
        host: String,
        /// Command and arguments
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Shows the log of the controller, or of a host's agent
    #[command(after_help = "Examples:\n  ecsctl lab logs\n  ecsctl lab logs lab-1 --follow\n  \
                            ecsctl lab logs lab-1 --console")]
    Logs {
        /// lab-1, lab-2, ...; left out: the controller
        host: Option<String>,
        /// Go on as it grows
        #[arg(short, long)]
        follow: bool,
        /// The host's own console instead of its agent's log
        #[arg(long, requires = "host")]
        console: bool,
        /// Where the processors of an emulated host are now; for one that hangs
        #[arg(long, requires = "host", conflicts_with_all = ["console", "follow"])]
        processors: bool,
    },
    /// Kills a process or a host at once, as a crash would; what it takes to see the cloud recover
    #[command(
        after_help = "Examples:\n  ecsctl lab crash controller\n  ecsctl lab crash agent --host lab-2\n  \
                            ecsctl lab crash vmm i-1\n  ecsctl lab crash host --host lab-2"
    )]
    Crash {
        what: crash::Victim,
        /// With vmm: the instance
        #[arg(required_if_eq("what", "vmm"))]
        instance: Option<String>,
        /// With agent, vmm and host: where
        #[arg(long, default_value = "lab-1")]
        host: String,
    },
    /// Says whether this machine's KVM runs stock guests
    #[command(after_help = "Examples:\n  ecsctl lab probe\n  \
                            ecsctl lab probe --quiet && echo this machine is a host itself")]
    Probe {
        /// Print nothing; exit code 0 if stock guests run here, 1 if not
        #[arg(long, short)]
        quiet: bool,
        #[arg(long, hide = true)]
        here: bool,
    },
    /// Keeps a program running
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        pid_file: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// How many hosts
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16))]
    hosts: Option<u32>,
    /// Memory of each host in MiB; default: half of what is available, at most 8192
    #[arg(long, value_parser = clap::value_parser!(u64).range(1024..))]
    memory: Option<u64>,
    /// CPUs of each host; default: this machine's, at most 8
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Start with no data
    #[arg(long)]
    wipe: bool,
    /// Folder of ecs-controller, ecs-agent, ecs-vmm and ecs-bootimage; default: beside ecsctl
    #[arg(long, env = "ECS_PROGRAMS")]
    programs: Option<PathBuf>,
    /// Seconds to wait for the hosts
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

/// The controller of this user's lab, if there is a lab.
pub(crate) fn endpoint() -> Option<String> {
    let layout = Layout::find(None).ok()?;
    Record::load(&layout).ok().flatten().map(|record| record.endpoint())
}

pub(crate) async fn run(command: LabCommand, format: Format) -> Result<ExitCode> {
    let layout = Layout::find(None)?;
    match command {
        LabCommand::Up(arguments) => {
            let record = up::up(&layout, &arguments).await?;
            match format {
                Format::Json => json::print(&status_json(&layout, &record)),
                Format::Name => println!("{}", record.endpoint()),
                Format::Table | Format::Wide => println!("The lab is up: {}", record.endpoint()),
            }
        }
        LabCommand::Down { wipe } => {
            down(&layout, wipe)?;
            match format {
                Format::Json => json::print(&serde_json::json!({"running": false, "wiped": wipe})),
                Format::Name => {}
                Format::Table | Format::Wide => {
                    println!("The lab is down{}.", if wipe { ", its data deleted" } else { "" });
                }
            }
        }
        LabCommand::Status => status(&layout, format).await?,
        LabCommand::Ssh { host, command } => return ssh(&layout, &host, &command),
        LabCommand::Logs { host: Some(host), processors: true, .. } => {
            return processors(&layout, &host);
        }
        LabCommand::Logs { host, follow, console, .. } => {
            return logs(&layout, host.as_deref(), follow, console);
        }
        LabCommand::Crash { what, instance, host } => {
            crash::crash(&layout, what, instance.as_deref(), &host)?;
        }
        LabCommand::Probe { here: true, .. } => println!("{}", probe::here()),
        LabCommand::Probe { quiet, here: false } => {
            let found = probe::probe()?;
            match format {
                _ if quiet => {
                    let stock = found == probe::Found::Stock;
                    return Ok(if stock { ExitCode::SUCCESS } else { ExitCode::FAILURE });
                }
                Format::Json => json::print(&found.json()),
                _ => println!("{}", found.say()),
            }
        }
        LabCommand::Supervise { pid_file, command } => {
            process::supervise(&pid_file, &command).await?
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn any_runs(layout: &Layout, record: &Record) -> bool {
    [up::CONTROLLER, up::NATIVE_AGENT]
        .iter()
        .any(|name| process::running(&layout.pid(name)).is_some())
        || (1..=record.hosts).any(|number| machine::is_running(layout, number))
}

/// Ends the controller and a native agent. Instances on this machine outlive them.
fn stop_processes(layout: &Layout) -> Result<()> {
    for name in [up::NATIVE_AGENT, up::CONTROLLER] {
        process::stop(&layout.pid(name), Duration::from_secs(15))?;
    }
    Ok(())
}

fn stop_all(layout: &Layout, record: &Record) -> Result<()> {
    if record.kind == Kind::Emulated {
        for number in 1..=record.hosts {
            machine::stop(layout, record, number)?;
        }
    }
    stop_processes(layout)?;
    if record.kind == Kind::Native {
        native::clear(layout)?;
    }
    Ok(())
}

/// Ends what every pid file names; for a lab whose record cannot be read.
fn stop_by_pid_files(layout: &Layout) -> Result<()> {
    let Ok(entries) = fs::read_dir(&layout.root) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "pid") {
            process::stop(&path, Duration::from_secs(15))?;
        }
    }
    native::clear(layout)
}

fn down(layout: &Layout, wipe: bool) -> Result<()> {
    let record = match Record::load(layout) {
        Ok(record) => record,
        Err(_) if wipe => None,
        Err(e) => return Err(e),
    };
    match &record {
        Some(record) => stop_all(layout, record)?,
        None => stop_by_pid_files(layout)?,
    }
    if wipe && layout.root.exists() {
        // Only what a lab makes: the folder may have been named by mistake.
        for name in ["hosts", "controller", "agent", "files", "ssh", "kms"] {
            let path = layout.root.join(name);
            if path.exists() {
                fs::remove_dir_all(&path).map_err(Error::file("delete", &path))?;
            }
        }
        for name in ["lab.json", "join-token", "files.ext4", "controller.log", "agent.log"] {
            let path = layout.root.join(name);
            if path.exists() {
                fs::remove_file(&path).map_err(Error::file("delete", &path))?;
            }
        }
    }
    Ok(())
}

fn existing(layout: &Layout) -> Result<Record> {
    Record::load(layout)?.ok_or_else(|| {
        Error::Local(format!(
            "there is no lab in {}; start one with `ecsctl lab up`",
            layout.root.display()
        ))
    })
}

fn host_number(record: &Record, host: &str) -> Result<u32> {
    host.strip_prefix("lab-")
        .unwrap_or(host)
        .parse()
        .ok()
        .filter(|number| (1..=record.hosts).contains(number))
        .ok_or_else(|| {
            Error::Local(format!(
                "there is no host {host}; the lab has lab-1 to lab-{}",
                record.hosts
            ))
        })
}

fn status_json(layout: &Layout, record: &Record) -> serde_json::Value {
    let agent = process::running(&layout.pid(up::NATIVE_AGENT)).is_some();
    let hosts: Vec<_> = (1..=record.hosts)
        .map(|number| {
            let running = match record.kind {
                Kind::Native => agent,
                Kind::Emulated => machine::is_running(layout, number),
            };
            let life = machine::life(layout, number);
            serde_json::json!({
                "name": machine::name(number), "running": running,
                "boots": life.boots, "panics": life.panics,
            })
        })
        .collect();
    serde_json::json!({
        "folder": layout.root, "endpoint": record.endpoint(), "kvm": record.kvm,
        "controller_running": process::running(&layout.pid(up::CONTROLLER)).is_some(),
        "lab": record, "hosts": hosts, "paths": HostPaths::of(layout, record.kind),
    })
}

async fn status(layout: &Layout, format: Format) -> Result<()> {
    let record = existing(layout)?;
    let process = |name: &str| match process::running(&layout.pid(name)) {
        Some(pid) => format!("running, process {pid}"),
        None => "stopped".to_owned(),
    };
    if format == Format::Json {
        json::print(&status_json(layout, &record));
        return Ok(());
    }
    println!("Folder      {}", layout.root.display());
    println!("Endpoint    {}", record.endpoint());
    println!("KVM         {}", record.kvm.trim_start_matches("KVM: "));
    println!("Controller  {}", process(up::CONTROLLER));
    match record.kind {
        Kind::Native => println!("Agent       {}", process(up::NATIVE_AGENT)),
        Kind::Emulated => {
            for number in 1..=record.hosts {
                let machine::Life { boots, panics } = machine::life(layout, number);
                let again = match boots.saturating_sub(1) {
                    0 => String::new(),
                    n => format!(", has rebooted {n} time(s), {panics} after a kernel panic"),
                };
                println!("Host lab-{number:<2} {}{again}", process(&format!("host-{number}")));
            }
        }
    }
    if process::running(&layout.pid(up::CONTROLLER)).is_some() {
        let cloud = Cloud::connect(Some(&record.endpoint())).await?;
        let hosts =
            cloud.operator().describe_hosts(DescribeHostsRequest {}).await?.into_inner().hosts;
        println!();
        table::print(format, &hosts);
    }
    Ok(())
}

/// Becomes the other program, so that its exit code and terminal are its own.
fn become_program(mut command: Command) -> Result<ExitCode> {
    let name = command.get_program().to_string_lossy().into_owned();
    Err(Error::io(format!("cannot run {name}"))(command.exec()))
}

fn ssh(layout: &Layout, host: &str, command: &[String]) -> Result<ExitCode> {
    let record = existing(layout)?;
    let number = host_number(&record, host)?;
    if record.kind == Kind::Native {
        // The host is this machine itself. As with ssh, a shell takes the words as one line.
        let mut shell = Command::new("sh");
        if !command.is_empty() {
            shell.arg("-c").arg(command.join(" "));
        }
        return become_program(shell);
    }
    // A host that has hung ends the connection, and does not hang whoever waits for it.
    let mut options = vec!["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"];
    options.extend(command.is_empty().then_some("-t"));
    let mut ssh = machine::ssh(layout, &record, number, &options);
    ssh.args(command);
    become_program(ssh)
}

fn processors(layout: &Layout, host: &str) -> Result<ExitCode> {
    let record = existing(layout)?;
    let number = host_number(&record, host)?;
    if record.kind == Kind::Native {
        return Err(Error::Local(format!("{host} is this machine itself, not an emulated one")));
    }
    print!("{}", monitor::processors(layout, number)?);
    Ok(ExitCode::SUCCESS)
}

fn logs(layout: &Layout, host: Option<&str>, follow: bool, console: bool) -> Result<ExitCode> {
    let record = existing(layout)?;
    let follow = follow.then_some("-F");
    let local = |path: PathBuf| {
        let mut tail = Command::new("tail");
        tail.args(["-n", "+1"]).args(follow).arg(path);
        become_program(tail)
    };
    let Some(host) = host else { return local(layout.controller_log()) };
    let number = host_number(&record, host)?;
    match record.kind {
        Kind::Native => local(layout.native_agent_log()),
        Kind::Emulated if console => local(layout.host_console(number)),
        Kind::Emulated => {
            let mut ssh = machine::ssh(layout, &record, number, &[]);
            ssh.args(["tail", "-n", "+1"]).args(follow).arg("/var/log/ecs-agent.log");
            become_program(ssh)
        }
    }
}
