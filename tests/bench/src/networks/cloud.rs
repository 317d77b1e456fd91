//! A host's networks in a folder of their own, and short forms of what they should be.

use anyhow::{Context as _, Result, ensure};
use api::host::{EniSpec, RuleSpec, SecurityGroupSpec, VSwitchSpec, VpcSpec};
use network::{Desired, HostNetwork, Options};
use std::{
    fs,
    net::Ipv4Addr,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A port the groups of a whole host let in.
pub const RULES_PORT: u32 = 22;

/// Networks that are there for one figure.
pub struct Cloud {
    network: HostNetwork,
    desired: Desired,
    options: Options,
    folder: PathBuf,
    /// Where the wrapper of nft counts what it is given.
    count: Option<PathBuf>,
    members: u32,
}

/// Lets UDP to one port in from everywhere.
pub fn accept(port: u32, priority: u32) -> RuleSpec {
    RuleSpec {
        ip_protocol: "udp".to_owned(),
        port_from: port,
        port_to: port,
        cidr: "0.0.0.0/0".to_owned(),
        priority,
        ..RuleSpec::default()
    }
}

impl Cloud {
    /// A host with nothing; with `counting` what nft is given is counted in a file of that name, which
    /// takes time of its own.
    pub async fn new(work: &Path, counting: Option<&str>) -> Result<Self> {
        let folder = work.join("networks");
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let mut options = Options { namespace_dir: folder.join("netns"), ..Options::default() };
        let count = counting.map(|name| folder.join(name));
        if let Some(count) = &count {
            let wrapper = folder.join("nft");
            let (input, bytes) = (folder.join("input"), count.display());
            let script = format!(
                "#!/bin/sh\ncat >{input}\nwc -c <{input} >>{bytes}\nexec nft \"$@\" <{input}\n",
                input = input.display()
            );
            fs::write(&wrapper, script)?;
            fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
            options.nft = wrapper;
        }
        let network = HostNetwork::new(options.clone()).await.context("run this as root")?;
        // What a measurement that was cut off has left.
        network.reconcile(&Desired::default()).await;
        Ok(Self { network, desired: Desired::default(), options, folder, count, members: 0 })
    }

    /// As if the agent had been killed and started again.
    pub async fn restart(&mut self) -> Result<()> {
        self.network = HostNetwork::new(self.options.clone()).await?;
        Ok(())
    }

    /// A VPC of 10.0.0.0/8 with one VSwitch.
    pub fn add_vpc(&mut self, vni: u32) {
        self.desired.vpcs.push(VpcSpec {
            vpc_id: format!("vpc-{vni}"),
            cidr: "10.0.0.0/8".to_owned(),
            vni,
            vswitches: vec![VSwitchSpec {
                vswitch_id: format!("vsw-{vni}"),
                cidr: "10.0.0.0/16".to_owned(),
                gateway_ip: "10.0.255.253".to_owned(),
                ..VSwitchSpec::default()
            }],
            ..VpcSpec::default()
        });
    }

    /// A basic group without members.
    pub fn add_group(&mut self, vni: u32, id: &str, rules: Vec<RuleSpec>) {
        self.desired.groups.push(SecurityGroupSpec {
            security_group_id: id.to_owned(),
            vpc_id: format!("vpc-{vni}"),
            inner_accept: true,
            rules,
            ..SecurityGroupSpec::default()
        });
    }

    /// An ENI in these groups.
    pub fn add_eni(&mut self, vni: u32, number: u32, groups: &[&str]) {
        let address = Ipv4Addr::from(0x0a00_0001 + number).to_string();
        for group in self.desired.groups.iter_mut() {
            if groups.contains(&group.security_group_id.as_str()) {
                group.member_ips.push(address.clone());
            }
        }
        self.desired.enis.push(EniSpec {
            eni_id: format!("eni-{vni}-{number}"),
            mac: format!("00:16:3e:{:02x}:{:02x}:{:02x}", vni >> 8, vni & 0xff, number & 0xff),
            vpc_id: format!("vpc-{vni}"),
            vswitch_id: format!("vsw-{vni}"),
            vswitch_cidr: "10.0.0.0/16".to_owned(),
            vpc_cidr: "10.0.0.0/8".to_owned(),
            private_ip: address,
            gateway_ip: "10.0.255.253".to_owned(),
            security_group_ids: groups.iter().map(|group| (*group).to_owned()).collect(),
            primary: true,
            ..EniSpec::default()
        });
    }

    /// So many more members of a group, on other hosts.
    pub fn add_members(&mut self, group: &str, count: usize) {
        for group in self.desired.groups.iter_mut().filter(|g| g.security_group_id == group) {
            for _ in 0..count {
                self.members += 1;
                group.member_ips.push(Ipv4Addr::from(0x0a01_0000 + self.members).to_string());
            }
        }
    }

    /// How many ENIs there should be.
    pub fn enis(&self) -> usize {
        self.desired.enis.len()
    }

    /// One of the ENIs.
    pub fn eni(&self, number: usize) -> &EniSpec {
        &self.desired.enis[number]
    }

    /// Opens an ENI's tap.
    pub async fn tap(&self, eni: &EniSpec) -> Result<OwnedFd> {
        self.network.open_tap(eni, 1).await?.pop().context("no descriptor")
    }

    /// Makes all as it should be; how many things were changed.
    pub async fn reconcile(&self) -> Result<usize> {
        let report = self.network.reconcile(&self.desired).await;
        ensure!(report.problems.is_empty(), "{:?}", report.problems);
        Ok(report.changes)
    }

    /// Bytes nft was given so far.
    pub fn bytes_given(&self) -> Result<u64> {
        let Some(count) = &self.count else { return Ok(0) };
        let lines = fs::read_to_string(count)?;
        lines.lines().map(|line| line.trim().parse::<u64>().context("a count")).sum()
    }

    /// Removes everything.
    pub async fn demolish(self) -> Result<()> {
        let report = self.network.reconcile(&Desired::default()).await;
        ensure!(report.problems.is_empty(), "{:?}", report.problems);
        fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())
    }
}
