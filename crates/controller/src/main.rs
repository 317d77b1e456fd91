//! `ecs-controller`: the control plane of one region.

use clap::Parser;
use controller::{CloudOptions, DataDir, open, serve};
use ipnet::Ipv4Net;
use kms::KeyFolder;
use rand::Rng as _;
use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

/// Serves the ECS API and tells hosts what to run.
#[derive(Debug, Parser)]
#[command(name = "ecs-controller", version)]
struct Arguments {
    /// Address to serve gRPC on.
    #[arg(long, env = "ECS_LISTEN", default_value = "127.0.0.1:7800")]
    listen: SocketAddr,
    /// Where the database, the images and the join token are.
    #[arg(long, env = "ECS_DATA_DIR", default_value = "/var/lib/ecs-controller")]
    data_dir: PathBuf,
    /// Region id.
    #[arg(long, env = "ECS_REGION", default_value = "cn-lab-1")]
    region: String,
    /// Zone ids, with commas. Default: the region's id with a, b and c, after a hyphen where the
    /// region's id does not end in a digit.
    #[arg(long, env = "ECS_ZONES", value_delimiter = ',')]
    zones: Vec<String>,
    /// A host that is silent for longer is lost.
    #[arg(long, env = "ECS_LEASE_SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    lease_seconds: u64,
    /// vCPUs offered per physical thread of a host.
    #[arg(long, env = "ECS_CPU_OVERCOMMIT", default_value_t = 4.0, value_parser = factor)]
    cpu_overcommit: f64,
    /// GiB of disks offered per GiB of a storage pool that has no factor of its own: disks are
    /// copy-on-write and start almost empty.
    #[arg(long, env = "ECS_DISK_OVERCOMMIT", default_value_t = 10.0, value_parser = factor)]
    disk_overcommit: f64,
    /// A guest that was asked to stop is stopped after this many seconds.
    #[arg(long, env = "ECS_STOP_TIMEOUT_SECONDS", default_value_t = 60)]
    stop_timeout_seconds: u64,
    /// The secret hosts join with; made if it is not there. Default: join-token in the data
    /// directory.
    #[arg(long, env = "ECS_JOIN_TOKEN_FILE")]
    join_token_file: Option<PathBuf>,
    /// Name servers guests are told, with commas. Default: none, as a VPC has none of its own.
    #[arg(long, env = "ECS_DNS_SERVERS", value_delimiter = ',')]
    dns_servers: Vec<String>,
    /// Time servers guests are told, with commas.
    #[arg(
        long,
        env = "ECS_NTP_SERVERS",
        value_delimiter = ',',
        default_value = "ntp.cloud.aliyuncs.com"
    )]
    ntp_servers: Vec<String>,
    /// Account id guests are told.
    #[arg(long, env = "ECS_OWNER_ACCOUNT_ID", default_value = "1000000000000000")]
    owner_account_id: String,
    /// A range of public addresses that the network around the hosts routes to them; may be given
    /// several times, or with commas. Without one there are no EIPs.
    #[arg(long = "eip-range", env = "ECS_EIP_RANGES", value_delimiter = ',')]
    eip_ranges: Vec<Ipv4Net>,
    /// A network that instances must not reach from their public addresses, as that of the hosts and
    /// controllers; may be given several times, or with commas.
    #[arg(long = "protected-cidr", env = "ECS_PROTECTED_CIDRS", value_delimiter = ',')]
    protected_cidrs: Vec<Ipv4Net>,
    /// Folder with the master keys of encrypted disks: <id>.key with 64 hexadecimal digits, and default
    /// with the id of the key for disks that name none. Hosts have the same keys. Default: kms in the
    /// data directory.
    #[arg(long, env = "ECS_KMS_KEYS")]
    kms_keys: Option<PathBuf>,
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=1000.0).contains(&value) => Ok(value),
        _ => Err("must be a number from 0.1 to 1000".to_owned()),
    }
}

/// `cn-lab-1a` of `cn-lab-1`, `cn-hangzhou-a` of `cn-hangzhou`: as ECS names them.
fn default_zones(region: &str) -> Vec<String> {
    let hyphen = if region.ends_with(|last: char| last.is_ascii_digit()) { "" } else { "-" };
    ["a", "b", "c"].iter().map(|zone| format!("{region}{hyphen}{zone}")).collect()
}

/// Reads the join token, making one that only this user can read if there is none.
fn join_token(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let token = text.trim().to_owned();
            if token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Ok(token);
            }
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "holds no token of at least 16 printable ASCII characters; delete it to get a new one",
            ));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let token: String =
        rand::rng().random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    // Written under another name first: whoever reads the file finds all of it.
    let partial = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    Ok(token)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    // Before anything in there is written, the join token too.
    let data_dir = DataDir::lock(&arguments.data_dir)?;
    let token_file =
        arguments.join_token_file.unwrap_or_else(|| arguments.data_dir.join("join-token"));
    let join_token = join_token(&token_file)
        .map_err(|error| format!("join token {}: {error}", token_file.display()))?;
    let zone_ids =
        if arguments.zones.is_empty() { default_zones(&arguments.region) } else { arguments.zones };
    let kms_keys = arguments.kms_keys.unwrap_or_else(|| arguments.data_dir.join("kms"));
    let cloud = open(CloudOptions {
        data_dir,
        region_id: arguments.region,
        zone_ids,
        lease: Duration::from_secs(arguments.lease_seconds),
        cpu_overcommit: arguments.cpu_overcommit,
        disk_overcommit: arguments.disk_overcommit,
        stop_timeout: Duration::from_secs(arguments.stop_timeout_seconds),
        join_token,
        dns_servers: arguments.dns_servers,
        ntp_servers: arguments.ntp_servers,
        owner_account_id: arguments.owner_account_id,
        eip_ranges: Ipv4Net::aggregate(&arguments.eip_ranges),
        protected_cidrs: Ipv4Net::aggregate(&arguments.protected_cidrs),
        kms: Arc::new(KeyFolder::new(kms_keys)),
    })
    .await?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    tracing::info!(listen = %listener.local_addr()?, "serving");
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping");
    };
    // Watch streams of hosts have no end of their own, so there is no waiting for them.
    let mut stopping = Box::pin(stop);
    tokio::select! {
        served = serve(cloud, listener, std::future::pending()) => Ok(served?),
        () = &mut stopping => Ok(()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
