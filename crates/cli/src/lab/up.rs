//! `ecsctl lab up`: from nothing, or from what is there, to every host Ready.

use super::{
    UpArguments, files,
    layout::{HostPaths, Kind, Layout, Record, free_port},
    machine,
    probe::{self, Found},
    process,
    source_tree::{self, Programs},
};
use crate::{
    client::Cloud,
    error::{Error, Result},
    output::progress::Progress,
};
use api::v1::DescribeHostsRequest;
use std::{fs, path::Path, time::Duration};

/// What the controller's and a native agent's processes are called in pid files.
pub(super) const CONTROLLER: &str = "controller";
pub(super) const NATIVE_AGENT: &str = "agent";

/// Emulated hosts are slow, and so are their guests' shutdowns.
const LEASE_SECONDS: &str = "30";
const STOP_TIMEOUT_SECONDS: &str = "180";
/// A range for documentation (RFC 5737): nobody's, so that the lab takes no address from anyone.
const EIP_RANGE: &str = "203.0.113.0/24";
/// Where emulated hosts reach this machine, with the controller on it, and each other.
const HOST_NETWORKS: &str = "10.0.2.0/24,10.111.0.0/24";

/// Says on standard error what it does and finds; the answer is the caller's.
pub(super) async fn up(layout: &Layout, arguments: &UpArguments) -> Result<Record> {
    let programs = Programs::find(arguments.programs.as_deref())?;
    if arguments.wipe {
        super::down(layout, true)?;
    }
    fs::create_dir_all(&layout.root).map_err(Error::file("make", &layout.root))?;

    let found = probe::probe()?;
    eprintln!("{}", found.say());
    let kind = if found == Found::Stock { Kind::Native } else { Kind::Emulated };
    let known = Record::load(layout)?;
    let mut record = plan(arguments, known.as_ref(), kind, &found)?;
    eprintln!(
        "{}",
        match kind {
            Kind::Native => "The host is this machine itself.".to_owned(),
            Kind::Emulated => format!(
                "{} QEMU machine(s) as hosts, each {} CPUs and {} MiB: TCG, -cpu max, AMD SVM nested; \
                 guests are slower than on hardware.",
                record.hosts, record.cpus, record.memory_mib
            ),
        }
    );

    files::make_secrets(layout)?;
    let images = match kind {
        Kind::Native => None,
        Kind::Emulated => Some(source_tree::build_images(&["lab-host".to_owned()], false)?),
    };
    let settings = files::HostSettings {
        controller_port: record.controller_port,
        vcpus: record.cpus,
        kvm_note: "QEMU TCG, AMD SVM nested",
    };
    record.files_digest = files::stage(layout, &programs, &settings)?;

    let changed = known.as_ref().is_some_and(|known| {
        known.files_digest != record.files_digest
            || (known.kind, known.hosts, known.cpus, known.memory_mib)
                != (record.kind, record.hosts, record.cpus, record.memory_mib)
    });
    if let Some(known) = &known
        && changed
        && super::any_runs(layout, known)
    {
        if (known.kind, kind) == (Kind::Native, Kind::Native) {
            eprintln!("Programs have changed: agent and controller are restarted, guests run on.");
            super::stop_processes(layout)?;
        } else {
            eprintln!("Programs or sizes have changed: the hosts are restarted.");
            super::stop_all(layout, known)?;
        }
    }
    record.save(layout)?;

    start_controller(layout, &record, &programs)?;
    match (kind, images) {
        (Kind::Native, _) => start_native_agent(layout, &record, &programs, &found)?,
        (Kind::Emulated, Some(images)) => start_machines(layout, &record, &images)?,
        (Kind::Emulated, None) => {}
    }
    wait_ready(layout, &record, arguments.timeout).await?;
    Ok(record)
}

/// What the lab is to be: as asked, else as it was, else by the size of this machine.
fn plan(
    arguments: &UpArguments,
    known: Option<&Record>,
    kind: Kind,
    found: &Found,
) -> Result<Record> {
    let known = known.filter(|known| known.kind == kind);
    let hosts = arguments.hosts.or(known.map(|k| k.hosts)).unwrap_or(1);
    if kind == Kind::Native && hosts > 1 {
        return Err(Error::Local(format!(
            "--hosts {hosts}: where KVM runs stock guests, this machine is the lab's one host; leave \
             --hosts out"
        )));
    }
    let memory_mib = arguments
        .memory
        .or(known.map(|k| k.memory_mib))
        .map_or_else(|| default_memory_mib(hosts), Ok)?;
    let cpus = arguments.cpus.or(known.map(|k| k.cpus)).unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
            .min(8)
    });
    let mut access_ports = known.map(|k| k.access_ports.clone()).unwrap_or_default();
    let mut ssh_ports = known.map(|k| k.ssh_ports.clone()).unwrap_or_default();
    access_ports.truncate(hosts as usize);
    ssh_ports.truncate(hosts as usize);
    while access_ports.len() < hosts as usize {
        let next = u16::try_from(access_ports.len()).unwrap_or_default();
        access_ports.push(free_port(7811 + next)?);
        ssh_ports.push(free_port(7911 + next)?);
    }
    let controller_port = match known {
        Some(known) => known.controller_port,
        None => free_port(7800)?,
    };
    Ok(Record {
        kind,
        hosts,
        memory_mib,
        cpus,
        controller_port,
        access_ports,
        ssh_ports,
        files_digest: String::new(),
        kvm: found.say(),
    })
}

/// Half of what this machine has available, shared by the hosts, and no more than helps.
fn default_memory_mib(hosts: u32) -> Result<u64> {
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let available_kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0);
    let each = available_kib / 1024 / 2 / u64::from(hosts.max(1));
    if each < 1024 {
        return Err(Error::Local(format!(
            "this machine has {} MiB of memory available; {hosts} host(s) need 2 GiB each. Stop \
             something, or choose with --memory",
            available_kib / 1024
        )));
    }
    Ok(each.min(8192))
}

/// The controller runs on this machine, not in a host: it needs no KVM and must outlive hosts.
fn start_controller(layout: &Layout, record: &Record, programs: &Programs) -> Result<()> {
    let pid = layout.pid(CONTROLLER);
    if process::running(&pid).is_some() {
        return Ok(());
    }
    let data = layout.controller();
    fs::create_dir_all(&data).map_err(Error::file("make", &data))?;
    let command = [
        programs.path("ecs-controller").display().to_string(),
        "--listen".to_owned(),
        format!("127.0.0.1:{}", record.controller_port),
        "--data-dir".to_owned(),
        data.display().to_string(),
        "--join-token-file".to_owned(),
        layout.join_token().display().to_string(),
        "--kms-keys".to_owned(),
        layout.kms().display().to_string(),
        "--region".to_owned(),
        machine::REGION.to_owned(),
        "--zones".to_owned(),
        machine::ZONE.to_owned(),
        "--lease-seconds".to_owned(),
        LEASE_SECONDS.to_owned(),
        "--stop-timeout-seconds".to_owned(),
        STOP_TIMEOUT_SECONDS.to_owned(),
        "--eip-range".to_owned(),
        EIP_RANGE.to_owned(),
        "--protected-cidr".to_owned(),
        HOST_NETWORKS.to_owned(),
    ];
    process::start_supervised(&pid, &layout.controller_log(), &command)
}

fn start_native_agent(
    layout: &Layout,
    record: &Record,
    programs: &Programs,
    found: &Found,
) -> Result<()> {
    let pid = layout.pid(NATIVE_AGENT);
    if process::running(&pid).is_some() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Local(
            "the agent makes namespaces and taps on this machine: run `ecsctl lab up` as root"
                .to_owned(),
        ));
    }
    let access = format!("127.0.0.1:{}", record.access_ports[0]);
    let paths = HostPaths::of(layout, Kind::Native);
    let text = |path: &Path| path.display().to_string();
    let command = [
        programs.path("ecs-agent").display().to_string(),
        "--controller".to_owned(),
        record.endpoint(),
        "--access-listen".to_owned(),
        access.clone(),
        "--access-endpoint".to_owned(),
        format!("http://{access}"),
        "--zone".to_owned(),
        machine::ZONE.to_owned(),
        "--join-token-file".to_owned(),
        layout.join_token().display().to_string(),
        "--kms-keys".to_owned(),
        text(&layout.kms()),
        "--vmm-bin".to_owned(),
        programs.path("ecs-vmm").display().to_string(),
        "--bootimage-bin".to_owned(),
        programs.path("ecs-bootimage").display().to_string(),
        "--state-dir".to_owned(),
        text(&paths.state),
        "--run-dir".to_owned(),
        text(&paths.run),
        "--netns-dir".to_owned(),
        text(&paths.netns),
        "--cgroup".to_owned(),
        text(Path::new(paths.cgroup.file_name().unwrap_or_default())),
        "--jail-uid-base".to_owned(),
        paths.first_uid.to_string(),
        "--kvm-note".to_owned(),
        found.say(),
    ];
    process::start_supervised(&pid, &layout.native_agent_log(), &command)
}

fn start_machines(layout: &Layout, record: &Record, images: &Path) -> Result<()> {
    let down: Vec<u32> =
        (1..=record.hosts).filter(|number| !machine::is_running(layout, *number)).collect();
    if down.is_empty() {
        return Ok(());
    }
    if down.len() == record.hosts as usize {
        files::pack(layout)?;
    }
    for number in down {
        machine::start(layout, record, images, number)?;
    }
    Ok(())
}

async fn wait_ready(layout: &Layout, record: &Record, timeout: u64) -> Result<()> {
    let progress = Progress::start("hosts", Duration::from_secs(timeout));
    let mut said = "the controller does not answer".to_owned();
    loop {
        let mut up = 0;
        for number in 1..=record.hosts {
            if record.kind == Kind::Native || machine::is_up(layout, number)? {
                up += 1;
            }
        }
        let mut ready = 0;
        if let Ok(cloud) = Cloud::connect(Some(&record.endpoint())).await {
            match cloud.operator().describe_hosts(DescribeHostsRequest {}).await {
                Ok(answer) => {
                    let hosts = answer.into_inner().hosts;
                    ready = hosts.iter().filter(|host| host.status == "Ready").count();
                    said = format!("{up} of {} booted, {ready} ready", record.hosts);
                }
                Err(status) => said = format!("the controller says: {}", status.message()),
            }
        }
        if up == record.hosts && ready >= record.hosts as usize {
            progress.done(&said);
            return Ok(());
        }
        progress.set(&said);
        if progress.is_late() {
            progress.done(&said);
            return Err(Error::TimedOut(format!(
                "the hosts are not ready after {timeout} s: {said}. `ecsctl lab logs` and \
                 `ecsctl lab logs lab-1` say why; --timeout waits longer"
            )));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
