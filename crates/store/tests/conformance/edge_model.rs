//! Public addresses in random order of orders, reports and losses of hosts: no two hosts ever have
//! one, and what is said of it is so.

use super::{Backend, records::*};
use std::{collections::BTreeSet, net::Ipv4Addr};
use store::*;

const RUNS: u64 = 8;
const STEPS: u32 = 120;
const HOSTS: [&str; 2] = ["h-1", "h-2"];

/// A host as it is, rather than as it is wanted.
#[derive(Debug, Default)]
struct Host {
    /// Addresses of the spec it acted on last.
    has: BTreeSet<Ipv4Addr>,
    lost: bool,
    /// It is back and has not acted on a spec since: what it has is not known to anyone.
    behind: bool,
}

struct Model {
    random: u64,
    now_ms: i64,
    hosts: [Host; 2],
    released: u32,
}

impl Model {
    /// xorshift64*.
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    async fn eips(&self, store: &dyn Store) -> Vec<EipRecord> {
        let page = Page::Offset { offset: 0, limit: 100 };
        store.eips(EipFilter::default(), page).await.unwrap().items
    }

    async fn gateway(&self, store: &dyn Store) -> NatGatewayRecord {
        let page = Page::Offset { offset: 0, limit: 1 };
        store.nat_gateways(NatGatewayFilter::default(), page).await.unwrap().items.remove(0)
    }

    async fn step(&mut self, store: &dyn Store) {
        let eips = self.eips(store).await;
        let eip = eips[self.below(eips.len())].clone();
        let host = self.below(2);
        match self.below(8) {
            0 | 1 => self.bind(store, eip).await,
            2 if eip.target.is_some() => {
                let free = EipRecord { target: None, vpc_id: String::new(), ..eip };
                change(store, Vec::new(), EdgeRecord::Eip(free)).await;
            }
            3 if eip.status == "Available" => self.replace(store, eip).await,
            4 | 5 if !self.hosts[host].lost => self.act(store, host).await,
            6 if !self.hosts[host].lost && self.below(3) == 0 => self.lose(store, host).await,
            6 if self.hosts[host].lost => {
                self.renew(store, host).await;
                self.hosts[host].lost = false;
                self.hosts[host].behind = true;
            }
            7 => {
                let gateway = self.gateway(store).await;
                let other = HOSTS.iter().position(|host| **host != gateway.host_id).unwrap();
                if gateway.host_lost && !self.hosts[other].lost {
                    let host_id = HOSTS[other].to_owned();
                    let moved = EdgeRecord::NatGateway(NatGatewayRecord { host_id, ..gateway });
                    change(store, Vec::new(), moved).await;
                }
            }
            _ => {}
        }
    }

    /// Associates an address that is Available with something that has none.
    async fn bind(&mut self, store: &dyn Store, eip: EipRecord) {
        if eip.status != "Available" {
            return;
        }
        let target = match self.below(3) {
            0 => EipTarget::NatGateway("ngw-1".to_owned()),
            index => {
                let instances = listed(store).await;
                let instance = &instances[index - 1];
                if !instance.eips.is_empty() {
                    return;
                }
                let eni = &instance.enis[0];
                EipTarget::Interface {
                    eni_id: eni.eni_id.clone(),
                    private_ip: eni.private_ip,
                    instance_id: eni.instance_id.clone(),
                }
            }
        };
        let bound = EipRecord { target: Some(target), vpc_id: "vpc-1".to_owned(), ..eip };
        change(store, Vec::new(), EdgeRecord::Eip(bound)).await;
    }

    /// Gives an address back, and takes it again under another id.
    async fn replace(&mut self, store: &dyn Store, eip: EipRecord) {
        self.released += 1;
        let allocation_id = format!("eip-again-{}", self.released);
        let anew = EipRecord { allocation_id, ..eip.clone() };
        change(store, vec![EdgeRecord::Eip(eip)], EdgeRecord::Eip(anew)).await;
    }

    /// A host takes its spec and says so.
    async fn act(&mut self, store: &dyn Store, host: usize) {
        let spec = store.host_snapshot(HOSTS[host]).await.unwrap().unwrap();
        let of_instances = spec.instances.iter().flat_map(|details| &details.eips);
        let gateways = spec.networks.iter().flat_map(|network| {
            let here = network.nat_gateways.iter().filter(|g| g.host_id == HOSTS[host]);
            here.flat_map(|gateway| network.eips_of(&gateway.nat_gateway_id))
        });
        let has = of_instances.chain(gateways).map(|eip| eip.address).collect();
        let report = HostReport {
            host_id: HOSTS[host].to_owned(),
            session: 1,
            observed_revision: spec.revision,
            events: Vec::new(),
            pools: Vec::new(),
            now_ms: self.now_ms,
            lease_until_ms: self.now_ms + 10,
            decide: Box::new(|_| Ok(StatusPlan::default())),
        };
        store.report_status(report).await.unwrap();
        self.hosts[host] = Host { has, lost: false, behind: false };
    }

    async fn renew(&self, store: &dyn Store, host: usize) {
        let until = self.now_ms + 10;
        store.renew_host_lease(HOSTS[host], 1, self.now_ms, until).await.unwrap();
    }

    async fn lose(&mut self, store: &dyn Store, host: usize) {
        self.now_ms += 100;
        let other = 1 - host;
        if !self.hosts[other].lost {
            self.renew(store, other).await;
        }
        store.expire_hosts(self.now_ms).await.unwrap();
        self.hosts[host].lost = true;
    }

    async fn check(&self, store: &dyn Store) {
        let gateway = self.gateway(store).await;
        let known = |index: &usize| !self.hosts[*index].lost && !self.hosts[*index].behind;
        for eip in self.eips(store).await {
            let holders: Vec<usize> = (0..2)
                .filter(known)
                .filter(|i| self.hosts[*i].has.contains(&eip.address))
                .collect();
            assert!(holders.len() <= 1, "{eip:?} is at {holders:?}");
            let wanted = match &eip.target {
                Some(EipTarget::NatGateway(_)) => Some(gateway.host_id.as_str()),
                Some(EipTarget::Interface { instance_id, .. }) => {
                    Some(if instance_id == "i-1" { "h-1" } else { "h-2" })
                }
                None => None,
            };
            let wanted = wanted.map(|id| HOSTS.iter().position(|host| *host == id).unwrap());
            match eip.status.as_str() {
                "Available" => assert!(holders.is_empty(), "{eip:?} is at {holders:?}"),
                "InUse" => {
                    let host = wanted.unwrap();
                    let there = self.hosts[host].has.contains(&eip.address) || !known(&host);
                    assert!(there, "{eip:?} is not at {host}");
                }
                "Associating" => assert!(wanted.is_some(), "{eip:?}"),
                "Unassociating" => assert!(wanted.is_none(), "{eip:?}"),
                other => panic!("{other}"),
            }
        }
    }
}

async fn change(store: &dyn Store, delete: Vec<EdgeRecord>, put: EdgeRecord) {
    let plan = EdgePlan { delete, put: vec![put], ..Default::default() };
    // An address is taken again only once it is given back.
    let plans = if plan.delete.is_empty() {
        vec![plan]
    } else {
        vec![EdgePlan { put: Vec::new(), ..plan.clone() }, EdgePlan { delete: Vec::new(), ..plan }]
    };
    for plan in plans {
        let decide: Decide<EdgeView, EdgePlan> = Box::new(move |_| Ok(plan.clone()));
        store.change_edge(None, EdgeLookup::default(), decide).await.unwrap();
    }
}

pub async fn no_address_is_at_two_hosts<B: Backend>(_: &B) {
    for run in 1..=RUNS {
        // Each run has a database of its own.
        let backend = B::new();
        one_run(&*backend.open(), run).await;
    }
}

async fn one_run(store: &dyn Store, run: u64) {
    site(store, 100).await;
    store.register_host(host("h-2", 100, 1 << 20)).await.unwrap();
    for (id, host_id) in [("i-1", "h-1"), ("i-2", "h-2")] {
        let decide: Decide<CreateView, CreatePlan> = Box::new(move |_| {
            let instances = vec![instance(id, host_id)];
            Ok(CreatePlan { instances, ..CreatePlan::default() })
        });
        store.create_instances(None, lookup(), decide).await.unwrap();
    }
    let gateway = NatGatewayRecord {
        nat_gateway_id: "ngw-1".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        vswitch_id: "vsw-1".to_owned(),
        zone_id: "z".to_owned(),
        snat_table_id: "stb-1".to_owned(),
        forward_table_id: "ftb-1".to_owned(),
        host_id: "h-1".to_owned(),
        ..NatGatewayRecord::default()
    };
    change(store, Vec::new(), EdgeRecord::NatGateway(gateway)).await;
    for index in 0..3u8 {
        let eip = EipRecord {
            allocation_id: format!("eip-{index}"),
            address: Ipv4Addr::new(203, 0, 113, index + 1),
            name: String::new(),
            description: String::new(),
            bandwidth_mbps: 5,
            charge_type: "PayByTraffic".to_owned(),
            fixed: false,
            target: None,
            vpc_id: String::new(),
            tags: Vec::new(),
            created_ms: 1,
            status: String::new(),
        };
        change(store, Vec::new(), EdgeRecord::Eip(eip)).await;
    }
    let random = run.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut model = Model { random, now_ms: 2000, hosts: Default::default(), released: 0 };
    for host in 0..2 {
        model.renew(store, host).await;
    }
    for _ in 0..STEPS {
        model.step(store).await;
        model.check(store).await;
    }
}
