//! A host's networks in a directory of their own, and short forms of specs.

use crate::guest::{Cable, Guest};
use api::host::{EniSpec, RuleSpec, SecurityGroupSpec, VSwitchSpec, VpcSpec};
use network::{Desired, HostNetwork, Options, Report, namespace_name};
use nix::sched::{CloneFlags, setns};
use std::{fs::File, net::Ipv4Addr, process::Command};
use tempfile::TempDir;

/// The networks of one test.
#[derive(Debug)]
pub struct Cloud {
    pub network: HostNetwork,
    pub desired: Desired,
    pub options: Options,
    _dir: TempDir,
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut options = Options {
            namespace_dir: dir.path().join("netns"),
            dns_servers: vec![Ipv4Addr::new(100, 100, 2, 136)],
            ..Options::default()
        };
        change(&mut options);
        let network = HostNetwork::new(options.clone())
            .await
            .expect("these tests make network namespaces: run them as root (make test does)");
        Self { network, desired: Desired::default(), options, _dir: dir }
    }

    /// As if the agent had been killed and started again.
    pub async fn restart(&mut self) {
        self.network = HostNetwork::new(self.options.clone()).await.expect("root");
    }

    /// Reconciles; nothing may go wrong.
    pub async fn reconcile(&self) -> Report {
        let report = self.network.reconcile(&self.desired).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        report
    }

    pub fn add_vpc(&mut self, vni: u32) {
        self.desired.vpcs.push(VpcSpec {
            vpc_id: format!("vpc-{vni}"),
            cidr: "10.0.0.0/8".to_owned(),
            vni,
            vswitches: vec![VSwitchSpec {
                vswitch_id: format!("vsw-{vni}"),
                cidr: "10.0.0.0/24".to_owned(),
                gateway_ip: GATEWAY.to_string(),
                ..VSwitchSpec::default()
            }],
            ..VpcSpec::default()
        });
    }

    pub fn add_group(&mut self, vni: u32, id: &str, rules: Vec<RuleSpec>) {
        self.desired.groups.push(SecurityGroupSpec {
            security_group_id: id.to_owned(),
            vpc_id: format!("vpc-{vni}"),
            enterprise: false,
            inner_accept: true,
            rules,
            member_ips: Vec::new(),
        });
    }

    pub fn group(&mut self, id: &str) -> &mut SecurityGroupSpec {
        let group = self.desired.groups.iter_mut().find(|g| g.security_group_id == id);
        group.expect("a group of this id")
    }

    /// An ENI with address 10.0.0.`host`, member of `groups`.
    pub fn add_eni(&mut self, vni: u32, host: u8, groups: &[&str]) -> EniSpec {
        let eni = EniSpec {
            eni_id: format!("eni-{vni}-{host}"),
            mac: format!("00:16:3e:00:{vni:02x}:{host:02x}"),
            vpc_id: format!("vpc-{vni}"),
            vswitch_id: format!("vsw-{vni}"),
            vswitch_cidr: "10.0.0.0/24".to_owned(),
            private_ip: address(host).to_string(),
            gateway_ip: GATEWAY.to_string(),
            security_group_ids: groups.iter().map(|g| (*g).to_owned()).collect(),
            primary: true,
            vpc_cidr: "10.0.0.0/8".to_owned(),
            ..EniSpec::default()
        };
        for group in groups {
            self.group(group).member_ips.push(eni.private_ip.clone());
        }
        self.desired.enis.push(eni.clone());
        eni
    }

    pub fn remove_eni(&mut self, eni: &EniSpec) {
        self.desired.enis.retain(|other| other.eni_id != eni.eni_id);
        for group in &mut self.desired.groups {
            group.member_ips.retain(|ip| *ip != eni.private_ip);
        }
    }

    pub async fn boot(&self, eni: &EniSpec) -> Guest {
        let mut taps = self.network.open_tap(eni, 1).await.expect("open the tap");
        let tap = taps.pop().expect("one descriptor");
        Guest::boot(tap, &eni.mac, &format!("{}/24", eni.private_ip), &eni.gateway_ip)
    }

    pub async fn cable(&self, eni: &EniSpec) -> Cable {
        let mut taps = self.network.open_tap(eni, 1).await.expect("open the tap");
        Cable::new(taps.pop().expect("one descriptor"))
    }

    /// Runs a command inside a VPC's namespace, as a person would.
    pub fn by_hand(&self, vni: u32, command: &str) -> String {
        let file = File::open(self.options.namespace_dir.join(namespace_name(vni))).expect("netns");
        let line = command.to_owned();
        let output = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter");
            Command::new("sh").args(["-c", &line]).output().expect("run sh")
        })
        .join()
        .expect("a thread");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Removes everything and checks that nothing is left.
    pub async fn demolish(self) {
        let report = self.network.reconcile(&Desired::default()).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(self.network.list().await.expect("list"), []);
        let left = std::fs::read_dir(&self.options.namespace_dir).expect("read").count();
        assert_eq!(left, 0);
    }
}

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 253);

pub fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

/// An ingress rule for one TCP port that accepts from `cidr`.
pub fn accept_tcp(port: u32, cidr: &str) -> RuleSpec {
    RuleSpec {
        egress: false,
        ip_protocol: "tcp".to_owned(),
        port_from: port,
        port_to: port,
        cidr: cidr.to_owned(),
        priority: 1,
        ..RuleSpec::default()
    }
}

pub fn drop_tcp(port: u32, cidr: &str, priority: u32) -> RuleSpec {
    RuleSpec { drop: true, priority, ..accept_tcp(port, cidr) }
}
