//! One host under test: an agent process in its own directories, and its controller.

use crate::controller_double::{Controller, Seen, TOKEN};
use api::host::{
    DiskSpec, EniSpec, InstanceMetadata, InstanceSpec, InstanceState, InstanceStatus, Power,
    SecurityGroupSpec, VSwitchSpec, VpcSpec, host_access_client::HostAccessClient,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::{Request, Status, metadata::MetadataValue, transport::Channel};

const PATIENCE: Duration = Duration::from_secs(60);
static NEXT_HOST: AtomicU32 = AtomicU32::new(0);

pub struct Host {
    pub controller: Controller,
    root: TempDir,
    agent: Option<Child>,
    access_port: u16,
    vni: u32,
    /// More of the agent's options.
    pub options: Vec<String>,
    cgroup: String,
}

impl Host {
    /// A host whose agent does not run yet.
    pub async fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make networks: run them as root"
        );
        let root = tempfile::Builder::new().prefix("ecs-agent-").tempdir().unwrap();
        let me = std::env::current_exe().unwrap();
        for name in ["ecs-vmm", "ecs-bootimage"] {
            fs::copy(&me, root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let access_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let number = NEXT_HOST.fetch_add(1, Ordering::Relaxed);
        Self {
            controller: Controller::start().await,
            root,
            agent: None,
            access_port,
            vni: 100 + number,
            options: Vec::new(),
            cgroup: format!("ecs-agent-test-{}-{number}", std::process::id()),
        }
    }

    pub async fn started() -> Self {
        let mut host = Self::new().await;
        host.start_agent();
        host
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    pub fn start_agent(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_ecs-agent"))
            .env("RUST_LOG", "info,agent=debug")
            .arg("--controller")
            .arg(format!("http://{}", self.controller.address))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--run-dir")
            .arg(self.path("run"))
            .arg("--netns-dir")
            .arg(self.path("netns"))
            .arg("--cgroup")
            .arg(&self.cgroup)
            .arg("--access-listen")
            .arg(format!("127.0.0.1:{}", self.access_port))
            .arg("--join-token-file")
            .arg(self.path("token"))
            .arg("--vmm-bin")
            .arg(self.path("ecs-vmm"))
            .arg("--bootimage-bin")
            .arg(self.path("ecs-bootimage"))
            .args(&self.options)
            .stdin(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// An instance with one blank disk and one ENI, wanted on.
    pub fn run_instance(&self, id: &str) -> u64 {
        let number = self.controller.state.spec.borrow().instances.len() + 2;
        let vni = self.vni;
        self.controller.publish(|spec| {
            if spec.vpcs.is_empty() {
                spec.vpcs.push(VpcSpec {
                    vpc_id: "vpc-1".into(),
                    cidr: "10.0.0.0/16".into(),
                    vni,
                    vswitches: vec![VSwitchSpec {
                        vswitch_id: "vsw-1".into(),
                        cidr: "10.0.0.0/24".into(),
                        gateway_ip: "10.0.0.253".into(),
                        ..VSwitchSpec::default()
                    }],
                    ..VpcSpec::default()
                });
                spec.security_groups.push(SecurityGroupSpec {
                    security_group_id: "sg-1".into(),
                    vpc_id: "vpc-1".into(),
                    ..SecurityGroupSpec::default()
                });
            }
            let disk_id = id.replacen("i-", "d-", 1);
            spec.disks.push(DiskSpec {
                disk_id: disk_id.clone(),
                generation: 1,
                size_gib: 1,
                ..DiskSpec::default()
            });
            let eni = EniSpec {
                eni_id: id.replacen("i-", "eni-", 1),
                mac: format!("00:16:3e:00:00:{number:02x}"),
                vpc_id: "vpc-1".into(),
                vswitch_id: "vsw-1".into(),
                vswitch_cidr: "10.0.0.0/24".into(),
                private_ip: format!("10.0.0.{number}"),
                gateway_ip: "10.0.0.253".into(),
                security_group_ids: vec!["sg-1".into()],
                primary: true,
                vpc_cidr: "10.0.0.0/16".into(),
                ..EniSpec::default()
            };
            spec.instances.push(InstanceSpec {
                instance_id: id.into(),
                generation: 1,
                power: Power::Running.into(),
                boot_epoch: 1,
                stop_timeout_seconds: 30,
                uuid: "4f1c6f0e-0000-4000-8000-000000000001".into(),
                vcpus: 1,
                memory_mib: 128,
                disk_ids: vec![disk_id],
                enis: vec![eni],
                metadata: Some(InstanceMetadata::default()),
                nic_queues: 1,
                ..InstanceSpec::default()
            });
        })
    }

    /// Changes an instance's spec.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut InstanceSpec)) -> u64 {
        self.controller.publish(|spec| {
            let found = spec.instances.iter_mut().find(|i| i.instance_id == id).unwrap();
            change(found);
            found.generation += 1;
        })
    }

    /// Takes an instance with its disks out of the spec, and the VPC with the last.
    pub fn delete(&self, id: &str) -> u64 {
        self.controller.publish(|spec| {
            let gone: Vec<String> = spec
                .instances
                .extract_if(.., |i| i.instance_id == id)
                .flat_map(|i| i.disk_ids)
                .collect();
            spec.disks.retain(|d| !gone.contains(&d.disk_id));
            if spec.instances.is_empty() {
                spec.vpcs.clear();
                spec.security_groups.clear();
            }
        })
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.controller.state.seen.lock().unwrap())
    }

    pub fn status(&self, id: &str) -> Option<InstanceStatus> {
        self.seen(|seen| seen.status.instances.iter().find(|i| i.instance_id == id).cloned())
    }

    /// Waits until the agent has reported what `is` accepts.
    pub async fn until<T>(&self, what: &str, is: impl Fn(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = is(self) {
                return found;
            }
            if start.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.path("agent.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(60).collect();
                let end: Vec<&str> = lines.into_iter().rev().collect();
                let status = self.seen(|seen| seen.status.clone());
                panic!("not seen: {what}\nlast report: {status:#?}\nagent:\n{}", end.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn until_state(&self, id: &str, state: InstanceState) -> InstanceStatus {
        self.until(&format!("{id} {state:?}"), |h| h.status(id).filter(|s| s.state() == state))
            .await
    }

    pub async fn until_running(&self, id: &str, boot_epoch: u64) -> InstanceStatus {
        self.until(&format!("{id} runs in epoch {boot_epoch}"), |h| {
            h.status(id)
                .filter(|s| s.state() == InstanceState::Running && s.boot_epoch == boot_epoch)
        })
        .await
    }

    /// Process id of the agent.
    pub fn agent(&self) -> i32 {
        i32::try_from(self.agent.as_ref().unwrap().id()).unwrap()
    }

    /// Process ids of the host's lease keepers.
    pub fn lease_keepers(&self) -> Vec<i32> {
        let leases = self.path("run/leases");
        let leases = leases.to_str().unwrap();
        pids_of("keep-leases", leases)
    }

    /// Process ids of an instance: VMMs, or keepers.
    pub fn pids(&self, id: &str, role: &str) -> Vec<i32> {
        let config = self.path(&format!("run/vmm/{id}/config.json"));
        let config = config.to_str().unwrap();
        pids_of(role, config)
    }

    pub fn vmm(&self, id: &str) -> i32 {
        let pids = self.pids(id, "run");
        assert_eq!(pids.len(), 1, "VMMs of {id}: {pids:?}");
        pids[0]
    }

    pub fn signal(&self, pid: i32, signal: Signal) {
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// How often a VMM of the instance was started.
    pub fn starts(&self, id: &str) -> usize {
        let starts = fs::read_to_string(self.path("starts")).unwrap_or_default();
        starts.lines().filter(|line| *line == id).count()
    }

    pub async fn access(
        &self,
    ) -> HostAccessClient<
        tonic::service::interceptor::InterceptedService<
            Channel,
            impl FnMut(Request<()>) -> Result<Request<()>, Status>,
        >,
    > {
        let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", self.access_port));
        let channel = endpoint.unwrap().connect().await.unwrap();
        let token: MetadataValue<_> = format!("Bearer {TOKEN}").parse().unwrap();
        HostAccessClient::with_interceptor(channel, move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", token.clone());
            Ok(request)
        })
    }

    /// Waits until the agent has reported a revision and nothing is left in it, then looks itself.
    pub async fn until_nothing_is_left(&self, revision: u64) {
        self.until("an empty report", |h| {
            h.seen(|seen| {
                let s = &seen.status;
                let empty = s.instances.is_empty() && s.disks.is_empty();
                (s.complete && s.observed_revision >= revision && empty).then_some(())
            })
        })
        .await;
        for dir in ["state/instances", "state/disks", "run/vmm", "netns"] {
            let entries = fs::read_dir(self.path(dir)).into_iter().flatten();
            let left: Vec<_> = entries.flatten().collect();
            assert!(left.is_empty(), "{dir}: {left:?}");
        }
        // Layers go once the account without them is on the medium.
        let mut access = self.access().await;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let request = api::host::ListHostObjectsRequest {};
            let objects = access.list_host_objects(request).await.unwrap().into_inner().objects;
            if objects.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "left: {objects:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Processes with these arguments: the first, and any other.
fn pids_of(first: &str, other: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<_> =
            cmdline.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        if arguments.get(1).is_some_and(|a| a == first) && arguments.iter().any(|a| a == other) {
            pids.push(pid);
        }
    }
    pids
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for pid in self.lease_keepers() {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        let instances = self.controller.state.spec.borrow().instances.clone();
        for instance in instances {
            for role in ["run", "keep-vmm"] {
                for pid in self.pids(&instance.instance_id, role) {
                    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
                }
            }
        }
        for entry in fs::read_dir(self.path("netns")).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
        }
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let parent = PathBuf::from(mount).join(&self.cgroup);
            let start = Instant::now();
            // Busy until the last of the killed processes is gone.
            while parent.exists() && start.elapsed() < Duration::from_secs(5) {
                for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
                    let _ = fs::remove_dir(entry.path());
                }
                let _ = fs::remove_dir(&parent);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if !std::thread::panicking() {
            assert!(!self.path("second-vmm").exists(), "two VMMs of one instance ran at once");
        }
    }
}
