//! `RunInstances` and `CreateInstance`: from a request to instances, disks and interfaces.

use super::{
    Api,
    image::family_not_found,
    instance_disks::{self, NewKeys, at_instance},
    instance_interfaces::Interfaces,
    instance_public_ip, request,
};
use crate::{
    cloud::CloudOptions,
    ecs_error::{dry_run, key_pair_not_found, missing, refuse, unsupported},
    ids, image_state, instance_state,
    scheduler::{self, DiskNeed, Needs},
    timestamp::now_ms,
    validation,
};
use api::v1::{
    CreateInstanceRequest, CreateInstanceResponse, RunInstancesRequest, RunInstancesResponse,
};
use kms::KeyManagement;
use prost::Message as _;
use std::collections::BTreeSet;
use store::{
    CreateLookup, CreatePlan, CreateView, EipRecord, HostRecord, ImageRecord, InstanceRecord,
    KeyPairRecord, NewInstance, Refusal, VSwitchRecord,
};
use uuid::Uuid;

impl Api {
    pub(super) async fn run_instances(
        &self,
        mut request: RunInstancesRequest,
    ) -> Result<RunInstancesResponse, Refusal> {
        let token = request::token("RunInstances", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        if request.amount == 0 {
            request.amount = 1;
        }
        let order = Order::check(request)?.with_keys(&*self.cloud.options.kms);
        let options = self.cloud.options.clone();
        let lookup = order.lookup.clone();
        let decide = move |view: &CreateView| {
            let instances = order.plan(view, &options, true)?;
            let public_ips = order.public_ips(view, &options, &instances)?;
            let instance_id_sets =
                instances.iter().map(|new| new.instance.instance_id.clone()).collect();
            let answer = RunInstancesResponse { request_id: String::new(), instance_id_sets };
            Ok(CreatePlan { instances, public_ips, answer: answer.encode_to_vec() })
        };
        request::response(self.cloud.store.create_instances(token, lookup, Box::new(decide)).await)
    }

    pub(super) async fn create_instance(
        &self,
        request: CreateInstanceRequest,
    ) -> Result<CreateInstanceResponse, Refusal> {
        let token = request::token("CreateInstance", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let order = Order::check(RunInstancesRequest {
            region_id: request.region_id,
            image_id: request.image_id,
            image_family: request.image_family,
            instance_type: request.instance_type,
            security_group_id: request.security_group_id,
            v_switch_id: request.v_switch_id,
            instance_name: request.instance_name,
            description: request.description,
            host_name: request.host_name,
            key_pair_name: request.key_pair_name,
            user_data: request.user_data,
            system_disk: request.system_disk,
            data_disk: request.data_disk,
            amount: 1,
            dry_run: request.dry_run,
            private_ip_address: request.private_ip_address,
            zone_id: request.zone_id,
            http_endpoint: request.http_endpoint,
            http_tokens: request.http_tokens,
            tag: request.tag,
            deletion_protection: request.deletion_protection,
            internet_max_bandwidth_out: request.internet_max_bandwidth_out,
            internet_charge_type: request.internet_charge_type,
            network_interface: request.network_interface,
            ipv6_address: request.ipv6_address,
            ipv6_address_count: request.ipv6_address_count,
            ..Default::default()
        })?
        .with_keys(&*self.cloud.options.kms);
        let options = self.cloud.options.clone();
        let lookup = order.lookup.clone();
        let decide = move |view: &CreateView| {
            // Its static public address is for AllocatePublicIpAddress to give.
            let instances = order.plan(view, &options, false)?;
            let instance_id =
                instances.first().map(|new| new.instance.instance_id.clone()).unwrap_or_default();
            let answer = CreateInstanceResponse { request_id: String::new(), instance_id };
            let answer = answer.encode_to_vec();
            Ok(CreatePlan { instances, answer, ..CreatePlan::default() })
        };
        request::response(self.cloud.store.create_instances(token, lookup, Box::new(decide)).await)
    }
}

/// A request whose values have been checked as far as they can be without the store.
struct Order {
    request: RunInstancesRequest,
    lookup: CreateLookup,
    instance_type: &'static catalog::InstanceType,
    user_data: Vec<u8>,
    tags: Vec<(String, String)>,
    interfaces: Interfaces,
    min_amount: u32,
    /// For each instance, or why there are none: a repeated order gets its answer, whatever has become of
    /// the master key since.
    new_keys: Result<Vec<NewKeys>, Refusal>,
}

impl Order {
    fn check(request: RunInstancesRequest) -> Result<Self, Refusal> {
        if request.instance_type.is_empty() {
            return Err(missing("instance_type"));
        }
        match (request.image_id.as_str(), request.image_family.as_str()) {
            ("", "") => return Err(missing("image_id")),
            (_, "") | ("", _) => {}
            _ => {
                return Err(refuse(
                    400,
                    "InvalidParameter.Conflict",
                    "give image_id or image_family, not both",
                ));
            }
        }
        let instance_type = catalog::instance_type(&request.instance_type).ok_or_else(|| {
            refuse(
                400,
                "InvalidInstanceType.ValueNotSupported",
                format!(
                    "instance type {:?} does not exist; DescribeInstanceTypes lists them",
                    request.instance_type
                ),
            )
        })?;
        if !(1..=100).contains(&request.amount) {
            return Err(refuse(
                400,
                "InvalidMaxAmount.Malformed",
                format!("amount is {}; it must be 1 to 100", request.amount),
            ));
        }
        if request.min_amount > request.amount {
            return Err(refuse(
                400,
                "InvalidMinAmount.Malformed",
                format!("min_amount {} is above amount {}", request.min_amount, request.amount),
            ));
        }
        let min_amount = if request.min_amount == 0 { request.amount } else { request.min_amount };
        let interfaces = Interfaces::check(&request, instance_type)?;
        validation::display_name(
            "InvalidInstanceName.Malformed",
            "instance name",
            &request.instance_name,
        )?;
        validation::description("InvalidDescription.Malformed", &request.description)?;
        if !request.host_name.is_empty() {
            let last = request.amount - 1;
            validation::host_name(&request.host_name)?;
            validation::host_name(&validation::suffixed(
                &request.host_name,
                request.unique_suffix,
                last,
            ))?;
        }
        one_of(
            "InvalidHttpEndpoint.NotSupported",
            "http_endpoint",
            &request.http_endpoint,
            &["enabled", "disabled"],
        )?;
        one_of(
            "InvalidHttpTokens.NotSupported",
            "http_tokens",
            &request.http_tokens,
            &["optional", "required"],
        )?;
        one_of(
            "InvalidInstanceChargeType.NotSupport",
            "instance_charge_type",
            &request.instance_charge_type,
            &["PostPaid"],
        )?;
        if !request.password.is_empty() {
            return Err(unsupported(
                "passwords are not supported; give a key_pair_name or set one in user_data",
            ));
        }
        instance_disks::check_count(request.data_disk.len(), instance_type)?;
        instance_public_ip::check(&request)?;
        let lookup = CreateLookup {
            image_id: request.image_id.clone(),
            image_family: request.image_family.clone(),
            vswitch_ids: interfaces.vswitch_ids(),
            security_group_ids: interfaces.group_ids(),
            eni_ids: interfaces.eni_ids(),
            key_pair_name: request.key_pair_name.clone(),
            snapshot_ids: request
                .data_disk
                .iter()
                .map(|disk| disk.snapshot_id.clone())
                .filter(|id| !id.is_empty())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            public_addresses: request.internet_max_bandwidth_out > 0,
        };
        Ok(Self {
            user_data: validation::user_data(&request.user_data)?,
            tags: validation::tags(&request.tag)?,
            lookup,
            instance_type,
            interfaces,
            min_amount,
            new_keys: Ok(Vec::new()),
            request,
        })
    }

    /// Keys for the disks that are to be encrypted. They are made outside of the transaction, as whoever
    /// manages keys may take time for it.
    fn with_keys(mut self, kms: &dyn KeyManagement) -> Self {
        let make = |_| NewKeys::make(kms, &self.request);
        self.new_keys = (0..self.request.amount).map(make).collect();
        self
    }

    /// A static public address for each, if the order wants them.
    fn public_ips(
        &self,
        view: &CreateView,
        options: &CloudOptions,
        instances: &[NewInstance],
    ) -> Result<Vec<EipRecord>, Refusal> {
        instance_public_ip::allocate(&self.request, view, &options.eip_ranges, instances)
    }

    /// Everything that is to be made, placed.
    fn plan(
        &self,
        view: &CreateView,
        options: &CloudOptions,
        power_on: bool,
    ) -> Result<Vec<NewInstance>, Refusal> {
        let family = &self.lookup.image_family;
        if view.image.is_none() && !family.is_empty() {
            return Err(family_not_found(family));
        }
        let (image_id, kind) = (&self.lookup.image_id, &self.instance_type.id);
        let image = image_state::bootable(view.image.as_ref(), image_id, kind)?;
        let amount = self.request.amount;
        let vswitch = self.interfaces.vswitch(view, &self.request.zone_id)?;
        self.interfaces.check_groups(view, &vswitch.vpc_id, amount)?;
        let key_pair = self.key_pair(view)?;
        if let Some(reason) = self.instance_type.family().requires.missing_on_kvm_x86() {
            return Err(refuse(
                403,
                "OperationDenied.NoStock",
                format!("{} {reason}", self.instance_type.id),
            ));
        }
        if self.instance_type.memory_mib == 0 {
            return Err(refuse(
                403,
                "InvalidInstanceType.NotSupported",
                format!(
                    "the memory size of {} is not published, so it cannot be made; choose another",
                    self.instance_type.id
                ),
            ));
        }
        let now = now_ms();
        let mut disks = instance_disks::of(&self.request, image, &view.snapshots)?;
        instance_disks::check_count(disks.len() - 1, self.instance_type)?;
        self.interfaces.check_devices(disks.len())?;
        for disk in &mut disks {
            vswitch.zone_id.clone_into(&mut disk.zone_id);
            disk.created_ms = now;
        }
        let candidates = self.candidates(view)?;
        let needs = Needs {
            zone_id: vswitch.zone_id.clone(),
            instance_type: self.instance_type.id.clone(),
            vcpus: self.instance_type.vcpus,
            memory_mib: self.instance_type.memory_mib,
            disks: disks
                .iter()
                .map(|disk| DiskNeed { gib: disk.size_gib, pool_id: disk.pool_id.clone() })
                .collect(),
        };
        let mut places = scheduler::place(&candidates, &needs, amount, now);
        if places.len() < self.min_amount as usize {
            return Err(scheduler::no_stock(&candidates, &needs, amount, places.len(), now));
        }
        places.truncate(self.interfaces.room(view, self.min_amount)?);
        let new_keys = self.new_keys.as_ref().map_err(Refusal::clone)?;
        if self.request.dry_run {
            return Err(dry_run());
        }
        let mut instances = Vec::with_capacity(places.len());
        for (index, place) in places.into_iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let instance = self.instance(
                index,
                place.host_id.clone(),
                (image, vswitch),
                key_pair,
                power_on,
                now,
            );
            let count = disks.len();
            let disks = disks.iter().zip(&place.pool_ids).enumerate().map(|(position, of)| {
                let (disk, pool_id) = of;
                let (id, host_id) = (&instance.instance_id, &place.host_id);
                let mut disk = at_instance(disk, ids::disk(), id, host_id, pool_id);
                if let Some(keys) = new_keys.get(index as usize) {
                    keys.give(&mut disk, position, count);
                }
                disk
            });
            let disks = disks.collect();
            let (enis, attach) = self.interfaces.of(&instance, view)?;
            instances.push(NewInstance { instance, disks, enis, attach });
        }
        tracing::debug!(options.region_id, count = instances.len(), "instances planned");
        Ok(instances)
    }

    fn instance(
        &self,
        index: u32,
        host_id: String,
        (image, vswitch): (&ImageRecord, &VSwitchRecord),
        key_pair: Option<&KeyPairRecord>,
        power_on: bool,
        now: i64,
    ) -> InstanceRecord {
        let request = &self.request;
        let instance_id = ids::instance();
        let unique = request.unique_suffix;
        let name = match validation::suffixed(&request.instance_name, unique, index) {
            name if name.is_empty() => instance_id.clone(),
            name => name,
        };
        let host_name = match validation::suffixed(&request.host_name, unique, index) {
            name if name.is_empty() => {
                format!("iZ{}Z", instance_id.strip_prefix("i-").unwrap_or(&instance_id))
            }
            name => name,
        };
        let mut instance = InstanceRecord {
            instance_id,
            name,
            description: request.description.clone(),
            host_name,
            image_id: image.image_id.clone(),
            instance_type: self.instance_type.id.clone(),
            vcpus: self.instance_type.vcpus,
            memory_mib: self.instance_type.memory_mib,
            nic_queues: self
                .instance_type
                .nic_queues
                .unwrap_or(1)
                .clamp(1, self.instance_type.vcpus.max(1)),
            zone_id: vswitch.zone_id.clone(),
            vpc_id: vswitch.vpc_id.clone(),
            vswitch_id: vswitch.vswitch_id.clone(),
            key_pair_name: request.key_pair_name.clone(),
            public_key: key_pair.map(|pair| pair.public_key.clone()).unwrap_or_default(),
            user_data: self.user_data.clone(),
            metadata_enabled: request.http_endpoint != "disabled",
            metadata_token_required: request.http_tokens == "required",
            deletion_protection: request.deletion_protection,
            uuid: Uuid::new_v4().to_string(),
            internet_max_bandwidth_out: request.internet_max_bandwidth_out,
            internet_charge_type: instance_public_ip::charge_type(request),
            tags: self.tags.clone(),
            created_ms: now,
            host_id,
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

    fn key_pair<'a>(&self, view: &'a CreateView) -> Result<Option<&'a KeyPairRecord>, Refusal> {
        let name = &self.lookup.key_pair_name;
        if name.is_empty() {
            return Ok(None);
        }
        view.key_pair.as_ref().map(Some).ok_or_else(|| key_pair_not_found(name))
    }

    /// The hosts to choose from: disks made from snapshots have to be where these are.
    fn candidates(&self, view: &CreateView) -> Result<Vec<HostRecord>, Refusal> {
        let places: BTreeSet<&str> =
            view.snapshots.iter().map(|snapshot| snapshot.host_id.as_str()).collect();
        if places.len() > 1 {
            let snapshots = view.snapshots.iter().map(|snapshot| snapshot.snapshot_id.as_str());
            return Err(refuse(
                403,
                "OperationDenied",
                format!(
                    "the snapshots {} are on different hosts ({}); use snapshots of one host for \
                     one instance",
                    snapshots.collect::<Vec<_>>().join(", "),
                    places.into_iter().collect::<Vec<_>>().join(", ")
                ),
            ));
        }
        let fits = |host: &&HostRecord| places.is_empty() || places.contains(host.host_id.as_str());
        Ok(view.hosts.iter().filter(fits).cloned().collect())
    }
}

fn one_of(code: &'static str, name: &str, value: &str, allowed: &[&str]) -> Result<(), Refusal> {
    if value.is_empty() || allowed.contains(&value) {
        return Ok(());
    }
    Err(refuse(400, code, format!("{name} is {value:?}; it must be {}", allowed.join(" or "))))
}
