//! Records to put in.

use store::*;

pub fn vpc(id: &str) -> Planned<VpcRecord> {
    let record = VpcRecord {
        vpc_id: id.to_owned(),
        name: String::new(),
        description: String::new(),
        cidr: "10.0.0.0/8".parse().unwrap(),
        vni: 0,
        secondary_cidrs: Vec::new(),
        ipv6_cidr: None,
        system_route_table_id: id.replacen("vpc", "vtb", 1),
        created_ms: 1,
    };
    Planned { record, answer: id.as_bytes().to_vec() }
}

pub fn vswitch(id: &str, vpc_id: &str, first: &str, last: &str) -> Planned<VSwitchRecord> {
    let record = VSwitchRecord {
        vswitch_id: id.to_owned(),
        vpc_id: vpc_id.to_owned(),
        zone_id: "z".to_owned(),
        cidr: "10.0.0.0/16".parse().unwrap(),
        name: String::new(),
        description: String::new(),
        first_ip: first.parse().unwrap(),
        last_ip: last.parse().unwrap(),
        gateway_ip: "10.0.255.253".parse().unwrap(),
        route_table_id: vpc_id.replacen("vpc", "vtb", 1),
        ipv6_cidr: None,
        created_ms: 1,
    };
    Planned { record, answer: Vec::new() }
}

pub fn group(id: &str, vpc_id: &str) -> Planned<SecurityGroupRecord> {
    let record = SecurityGroupRecord {
        group_id: id.to_owned(),
        vpc_id: vpc_id.to_owned(),
        name: String::new(),
        description: String::new(),
        enterprise: false,
        inner_accept: true,
        tags: Vec::new(),
        created_ms: 1,
    };
    Planned { record, answer: Vec::new() }
}

pub fn host(id: &str, vcpu_limit: u32, memory_mib: u64) -> HostRegistration {
    let host = HostRecord {
        host_id: id.to_owned(),
        hostname: id.to_owned(),
        zone_id: "z".to_owned(),
        access_endpoint: String::new(),
        underlay_ip: String::new(),
        vcpus: vcpu_limit,
        vcpu_limit,
        memory_mib,
        vcpus_used: 0,
        memory_mib_used: 0,
        kvm: String::new(),
        version: String::new(),
        session: 0,
        lease_until_ms: 0,
        lost: false,
        last_seen_ms: 0,
        observed_revision: 0,
        pools: vec![pool(&format!("pool-{id}"), 1_000_000)],
    };
    HostRegistration { host, now_ms: 1, lease_until_ms: 1000 }
}

/// A pool of a host.
pub fn pool(id: &str, limit_gib: u64) -> PoolRecord {
    PoolRecord {
        pool_id: id.to_owned(),
        name: id.to_owned(),
        overcommit_percent: 100,
        capacity_bytes: limit_gib << 30,
        available_bytes: limit_gib << 30,
        limit_gib,
        ..Default::default()
    }
}

/// A data disk that is nowhere.
pub fn disk(id: &str) -> DiskRecord {
    DiskRecord {
        disk_id: id.to_owned(),
        category: "cloud_essd".to_owned(),
        performance_level: "PL0".to_owned(),
        size_gib: 20,
        iops: 1,
        bytes_per_second: 1,
        zone_id: "z".to_owned(),
        generation: 1,
        created_ms: 1,
        ..Default::default()
    }
}

pub fn instance(id: &str, host_id: &str) -> NewInstance {
    let instance = InstanceRecord {
        instance_id: id.to_owned(),
        name: format!("name-{id}"),
        description: String::new(),
        host_name: String::new(),
        image_id: "m-1".to_owned(),
        instance_type: "t".to_owned(),
        vcpus: 2,
        memory_mib: 1024,
        nic_queues: 1,
        zone_id: "z".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        vswitch_id: "vsw-1".to_owned(),
        key_pair_name: String::new(),
        public_key: String::new(),
        user_data: vec![0, 255],
        metadata_enabled: true,
        metadata_token_required: false,
        deletion_protection: false,
        uuid: String::new(),
        internet_max_bandwidth_out: 0,
        internet_charge_type: "PayByTraffic".to_owned(),
        tags: vec![("owner".to_owned(), id.to_owned())],
        created_ms: 1,
        host_id: host_id.to_owned(),
        claimed: true,
        power_on: true,
        generation: 1,
        power_generation: 1,
        boot_epoch: 1,
        force: false,
        stop_charging: false,
        start_when_ready: false,
        releasing: false,
        released_revision: 0,
        reported: None,
        status: "Pending".to_owned(),
        status_reason: String::new(),
    };
    let disk = DiskRecord {
        host_id: host_id.to_owned(),
        pool_id: format!("pool-{host_id}"),
        instance_id: id.to_owned(),
        image_id: "m-1".to_owned(),
        system: true,
        delete_with_instance: true,
        ..disk(&format!("d-{id}"))
    };
    let eni = NewEni { eni: primary_eni(id, host_id), ..Default::default() };
    NewInstance { instance, disks: vec![disk], enis: vec![eni], attach: Vec::new() }
}

fn primary_eni(instance_id: &str, host_id: &str) -> EniRecord {
    EniRecord {
        instance_id: instance_id.to_owned(),
        host_id: host_id.to_owned(),
        primary: true,
        delete_on_release: true,
        status: "InUse".to_owned(),
        ..eni(&format!("eni-{instance_id}"))
    }
}

/// An interface that is nowhere.
pub fn eni(id: &str) -> EniRecord {
    EniRecord {
        eni_id: id.to_owned(),
        vpc_id: "vpc-1".to_owned(),
        vswitch_id: "vsw-1".to_owned(),
        zone_id: "z".to_owned(),
        security_group_ids: vec!["sg-1".to_owned()],
        created_ms: 1,
        status: "Available".to_owned(),
        ..Default::default()
    }
}

pub fn token(name: &str, hash: u8) -> Option<ClientToken> {
    Some(ClientToken {
        action: "Test".to_owned(),
        token: name.to_owned(),
        request_hash: vec![hash; 32],
        now_ms: 5,
    })
}

/// A VPC with a VSwitch and a group, and a host.
pub async fn site(store: &dyn Store, vcpus: u32) {
    network(store, "10.0.0.1", "10.0.255.252").await;
    store.register_host(host("h-1", vcpus, 1 << 20)).await.unwrap();
}

pub async fn network(store: &dyn Store, first: &str, last: &str) {
    store.create_vpc(None, vpc("vpc-1")).await.unwrap();
    let planned = vswitch("vsw-1", "vpc-1", first, last);
    store.create_vswitch(None, "vpc-1", Box::new(move |_| Ok(planned.clone()))).await.unwrap();
    let planned = group("sg-1", "vpc-1");
    store
        .create_security_group(None, "vpc-1", Box::new(move |_| Ok(planned.clone())))
        .await
        .unwrap();
}

pub fn plan(ids: &[&str]) -> Decide<CreateView, CreatePlan> {
    let instances: Vec<NewInstance> = ids.iter().map(|id| instance(id, "h-1")).collect();
    let answer = ids.join(",").into_bytes();
    Box::new(move |_| {
        let (instances, answer) = (instances.clone(), answer.clone());
        Ok(CreatePlan { instances, answer, ..CreatePlan::default() })
    })
}

pub fn lookup() -> CreateLookup {
    CreateLookup {
        image_id: "m-1".to_owned(),
        image_family: String::new(),
        vswitch_ids: vec!["vsw-1".to_owned()],
        security_group_ids: vec!["sg-1".to_owned()],
        eni_ids: Vec::new(),
        key_pair_name: String::new(),
        snapshot_ids: Vec::new(),
        public_addresses: false,
    }
}

pub async fn create(store: &dyn Store, ids: &[&str]) -> Result<Answer, StoreError> {
    store.create_instances(None, lookup(), plan(ids)).await
}

pub async fn listed(store: &dyn Store) -> Vec<InstanceDetails> {
    let page = Page::Offset { offset: 0, limit: 1000 };
    store.instances(InstanceFilter::default(), page).await.unwrap().items
}

pub async fn the_host(store: &dyn Store) -> HostRecord {
    store.hosts().await.unwrap().remove(0).0
}

/// Changes one instance.
pub async fn change(
    store: &dyn Store,
    id: &str,
    change: impl Fn(&mut InstanceRecord) + Send + Sync + 'static,
) -> Result<(), StoreError> {
    let decide: Decide<InstancesView, InstancesPlan> = Box::new(move |view| {
        let mut record = view.instances[0].instance.clone();
        change(&mut record);
        Ok(InstancesPlan { update: vec![record], answer: Vec::new() })
    });
    store.change_instances(None, vec![id.to_owned()], decide).await.map(drop)
}
