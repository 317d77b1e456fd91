//! Puts one agent together and runs it.

use crate::{
    access::{Access, CheckToken},
    capacity,
    cgroups::Cgroups,
    config::Config,
    controller_link::{self, Identity, JoinToken, spec_cache},
    disks::{self, Keys},
    durable_file,
    error::{Error, FileContext as _, Result},
    events::EventLog,
    host::{Board, Host, Settings, boot_id},
    images::Images,
    instances::{processes::kill_stray_boot_finders, slots::UidSlots},
    interfaces::Interfaces,
    layout::{Layout, make_dir},
    networks::Networks,
    pools::Pools,
    reconcile, underlay,
};
use api::host::RegisterHostRequest;
use kms::KeyFolder;
use network::Underlay;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    io,
    num::NonZero,
    sync::Arc,
    thread,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore, watch},
};
use tonic::transport::{Server, server::TcpIncoming};

/// Runs an agent until it is told to end. Guests run on.
///
/// # Errors
/// When it cannot start on this host.
pub async fn run(config: Config) -> Result<()> {
    let layout = Layout::new(&config.state_dir, &config.run_dir);
    make_dir(layout.state(), 0o711)?;
    let _lock = lock(&layout)?;
    layout.create()?;
    kill_stray_boot_finders(&layout)?;
    let token = config.join_token()?;
    let settings = Settings {
        vmm_bin: Config::program(config.vmm_bin.as_ref(), "ecs-vmm", "--vmm-bin")?,
        bootimage_bin: Config::program(
            config.bootimage_bin.as_ref(),
            "ecs-bootimage",
            "--bootimage-bin",
        )?,
        keeper_bin: std::env::current_exe()
            .map_err(|e| Error::Configuration(format!("cannot find own executable: {e}")))?,
        jail_uid_base: config.jail_uid_base,
        boot_id: boot_id()?,
    };
    let client = controller_link::client(&config.controller, JoinToken::new(&token)?)?;
    let arrived = Arc::new(Notify::new());
    let spec = spec_cache::load(&layout)?.map(Arc::new);
    let underlay = underlay::find(&config, &layout)?;
    let keys = Keys::new(Arc::new(KeyFolder::new(&config.kms_keys)));
    let host = Arc::new(Host {
        settings,
        images: Images::new(layout.clone(), client.clone(), Arc::clone(&arrived)),
        disks: Pools::open_all(layout.clone(), &host_id(&layout)?, &config.pools, keys)?,
        networks: Networks::open(&layout, &host_id(&layout)?, network_options(&config, underlay))
            .await?,
        interfaces: Interfaces::default(),
        cgroups: Cgroups::open(&config.cgroup)?,
        events: EventLog::open(&layout.events())?,
        slots: UidSlots::load(&layout, config.jail_uid_base)?,
        boot_finders: Semaphore::new(thread::available_parallelism().map_or(1, NonZero::get)),
        board: Board::default(),
        spec: watch::Sender::new(spec),
        applied: watch::Sender::default(),
        layout,
    });

    let listener = TcpListener::bind(config.access_listen).await.map_err(|e| {
        let flag = "--access-listen";
        Error::Configuration(format!("cannot listen on {flag} {}: {e}", config.access_listen))
    })?;
    let identity = Identity { registration: registration(&config, &host, underlay)? };
    tracing::info!(host_id = identity.registration.host_id, "ecs-agent starts");
    let access = Access::service(Arc::clone(&host), CheckToken::new(&token));
    // What is typed goes out at once.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder().add_service(access).serve_with_incoming(incoming);
    tokio::select! {
        () = reconcile::run(Arc::clone(&host), arrived) => {}
        () = reconcile::run_shared(Arc::clone(&host)) => {}
        () = disks::run_merges(Arc::clone(&host)) => {}
        () = controller_link::run(Arc::clone(&host), client, identity) => {}
        served = serving => served.map_err(|e| {
            Error::Configuration(format!("serving {} ended: {e}", config.access_listen))
        })?,
        ended = told_to_end() => {
            ended?;
            tracing::info!("ending; guests run on");
        }
    }
    Ok(())
}

fn lock(layout: &Layout) -> Result<File> {
    let path = layout.agent_lock();
    let file = File::create(&path).at("create", &path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::SecondAgent(layout.state().to_owned()))?;
    Ok(file)
}

async fn told_to_end() -> Result<()> {
    let listen = |kind| {
        signal(kind).map_err(|e| Error::Configuration(format!("cannot wait for signals: {e}")))
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn network_options(config: &Config, underlay: Option<Underlay>) -> network::Options {
    network::Options {
        namespace_dir: config.netns_dir.clone(),
        underlay,
        uplink: config.uplink.clone(),
        edge_denied: underlay::edge_denied(config),
        ..network::Options::default()
    }
}

fn registration(
    config: &Config,
    host: &Host,
    underlay: Option<Underlay>,
) -> Result<RegisterHostRequest> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(RegisterHostRequest {
        host_id: host_id(&host.layout)?,
        access_endpoint: config.advertised_endpoint(&hostname),
        hostname,
        zone_id: config.zone.clone(),
        capacity: Some(capacity::detect(config, &host.layout)),
        kvm: config.kvm_note.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        // As they are when it registers.
        pools: Vec::new(),
        underlay_ip: underlay.map(|u| u.address.to_string()).unwrap_or_default(),
    })
}

/// This host's id: made once, kept for good.
fn host_id(layout: &Layout) -> Result<String> {
    let path = layout.host_id();
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::File { action: "read", path, source: e }),
    }
    let id = format!("h-{}", uuid::Uuid::new_v4().simple());
    durable_file::write(&path, id.as_bytes())?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        let id = host_id(&layout).unwrap();
        assert_eq!(host_id(&layout).unwrap(), id);
        fs::write(layout.host_id(), "").unwrap();
        assert_ne!(host_id(&layout).unwrap(), id);
    }

    #[test]
    fn a_second_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        let held = lock(&layout).unwrap();
        assert!(matches!(lock(&layout), Err(Error::SecondAgent(_))));
        drop(held);
        assert!(lock(&layout).is_ok());
    }
}
