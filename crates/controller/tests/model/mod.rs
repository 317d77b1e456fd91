//! Records for tests of pure functions.

#![allow(dead_code)]

use controller::instance_state;
use store::{HostRecord, InstanceRecord, PoolRecord};

pub fn new_instance(power_on: bool) -> InstanceRecord {
    let mut instance = InstanceRecord {
        instance_id: "i-1".to_owned(),
        name: String::new(),
        description: String::new(),
        host_name: String::new(),
        image_id: String::new(),
        instance_type: String::new(),
        vcpus: 2,
        memory_mib: 1024,
        nic_queues: 1,
        zone_id: String::new(),
        vpc_id: String::new(),
        vswitch_id: String::new(),
        key_pair_name: String::new(),
        public_key: String::new(),
        user_data: Vec::new(),
        metadata_enabled: true,
        metadata_token_required: false,
        deletion_protection: false,
        uuid: String::new(),
        internet_max_bandwidth_out: 0,
        internet_charge_type: "PayByTraffic".to_owned(),
        tags: Vec::new(),
        created_ms: 0,
        host_id: "h-1".to_owned(),
        claimed: true,
        power_on,
        generation: 1,
        power_generation: 1,
        boot_epoch: u64::from(power_on),
        force: false,
        stop_charging: false,
        start_when_ready: false,
        releasing: false,
        released_revision: 0,
        reported: None,
        status: String::new(),
        status_reason: String::new(),
    };
    instance_state::refresh(&mut instance);
    instance
}

pub fn host() -> HostRecord {
    HostRecord {
        host_id: "h-1".to_owned(),
        hostname: String::new(),
        zone_id: String::new(),
        access_endpoint: String::new(),
        underlay_ip: String::new(),
        vcpus: 1,
        vcpu_limit: 1,
        memory_mib: 1,
        vcpus_used: 0,
        memory_mib_used: 0,
        kvm: String::new(),
        version: String::new(),
        session: 1,
        lease_until_ms: 0,
        lost: false,
        last_seen_ms: 0,
        observed_revision: 0,
        pools: vec![PoolRecord {
            pool_id: "pool-h-1".to_owned(),
            limit_gib: 100,
            ..Default::default()
        }],
    }
}
