//! What instances there are and how they are.

use super::{
    Api, instance_public_ip, network_interface_ipv6, paging, request::at_most_100, service,
};
use crate::{
    ecs_error::{from_store, instance_not_found, invalid, missing, refuse},
    eni_state,
    hosts::ask,
    instance_state, timestamp,
};
use api::v1::{instance_service_server::InstanceService, *};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use store::{HostRecord, InstanceDetails, InstanceFilter, Page, Refusal};

/// Bytes of console output an answer has at most.
const CONSOLE_BYTES: u64 = 64 << 10;

service!(InstanceService => Api {
    run_instances: RunInstancesRequest => RunInstancesResponse;
    create_instance: CreateInstanceRequest => CreateInstanceResponse;
    start_instance: StartInstanceRequest => StartInstanceResponse;
    start_instances: StartInstancesRequest => StartInstancesResponse;
    stop_instance: StopInstanceRequest => StopInstanceResponse;
    stop_instances: StopInstancesRequest => StopInstancesResponse;
    reboot_instance: RebootInstanceRequest => RebootInstanceResponse;
    modify_instance_attribute:
        ModifyInstanceAttributeRequest => ModifyInstanceAttributeResponse;
    reboot_instances: RebootInstancesRequest => RebootInstancesResponse;
    delete_instance: DeleteInstanceRequest => DeleteInstanceResponse;
    delete_instances: DeleteInstancesRequest => DeleteInstancesResponse;
    allocate_public_ip_address:
        AllocatePublicIpAddressRequest => AllocatePublicIpAddressResponse;
    convert_nat_public_ip_to_eip:
        ConvertNatPublicIpToEipRequest => ConvertNatPublicIpToEipResponse;
    modify_instance_network_spec:
        ModifyInstanceNetworkSpecRequest => ModifyInstanceNetworkSpecResponse;
    describe_instances: DescribeInstancesRequest => DescribeInstancesResponse;
    describe_instance_status: DescribeInstanceStatusRequest => DescribeInstanceStatusResponse;
    get_instance_console_output:
        GetInstanceConsoleOutputRequest => GetInstanceConsoleOutputResponse;
    describe_user_data: DescribeUserDataRequest => DescribeUserDataResponse;
    describe_instance_history_events:
        DescribeInstanceHistoryEventsRequest => DescribeInstanceHistoryEventsResponse;
}
    type AttachConsoleStream =
        futures::stream::BoxStream<'static, Result<AttachConsoleResponse, tonic::Status>>;

    async fn attach_console(
        &self,
        request: tonic::Request<tonic::Streaming<AttachConsoleRequest>>,
    ) -> Result<tonic::Response<Self::AttachConsoleStream>, tonic::Status> {
        self.console(request.into_inner()).await
    }

    type TunnelStream = futures::stream::BoxStream<'static, Result<TunnelResponse, tonic::Status>>;

    async fn tunnel(
        &self,
        request: tonic::Request<tonic::Streaming<TunnelRequest>>,
    ) -> Result<tonic::Response<Self::TunnelStream>, tonic::Status> {
        self.tunnel_to(request.into_inner()).await
    }
);

impl Api {
    /// The instance with this id, and its host.
    pub(super) async fn find_instance(
        &self,
        instance_id: &str,
    ) -> Result<(InstanceDetails, HostRecord), Refusal> {
        if instance_id.is_empty() {
            return Err(missing("instance_id"));
        }
        let filter =
            InstanceFilter { instance_ids: vec![instance_id.to_owned()], ..Default::default() };
        let page = Page::Offset { offset: 0, limit: 1 };
        let listed = self.cloud.store.instances(filter, page).await.map_err(from_store)?;
        let details =
            listed.items.into_iter().next().ok_or_else(|| instance_not_found(instance_id))?;
        let host_id = details.instance.host_id.clone();
        let hosts = self.cloud.store.hosts().await.map_err(from_store)?;
        let host = hosts.into_iter().map(|(host, _)| host).find(|host| host.host_id == host_id);
        let host = host.ok_or_else(|| {
            refuse(500, "InternalError", format!("host {host_id} is not registered"))
        })?;
        Ok((details, host))
    }

    pub(super) async fn describe_instances(
        &self,
        mut request: DescribeInstancesRequest,
    ) -> Result<DescribeInstancesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if !request.status.is_empty() && !instance_state::ALL.contains(&request.status.as_str()) {
            return Err(refuse(
                404,
                "InvalidStatus.NotFound",
                format!(
                    "status {:?} does not exist; choose one of {}",
                    request.status,
                    instance_state::ALL.join(", ")
                ),
            ));
        }
        at_most_100("instance_ids", request.instance_ids.len())?;
        at_most_100("private_ip_addresses", request.private_ip_addresses.len())?;
        at_most_100("ipv6_address", request.ipv6_address.len())?;
        let (number, size) = (request.page_number, request.page_size);
        let (token, max_results) = (std::mem::take(&mut request.next_token), request.max_results);
        (request.page_number, request.page_size, request.max_results) = (0, 0, 0);
        let (page, page_number, page_size) =
            paging::either((number, size), (&token, max_results), 100, &request)?;
        let by_token = page_size == 0;
        let private_ips = request
            .private_ip_addresses
            .iter()
            .map(|text| {
                text.parse().map_err(|_| invalid(format!("{text:?} is not an IPv4 address")))
            })
            .collect::<Result<_, _>>()?;
        let filter = InstanceFilter {
            instance_ids: request.instance_ids.clone(),
            name: request.instance_name.clone(),
            status: request.status.clone(),
            vpc_id: request.vpc_id.clone(),
            vswitch_id: request.v_switch_id.clone(),
            security_group_id: request.security_group_id.clone(),
            image_id: request.image_id.clone(),
            instance_type: request.instance_type.clone(),
            zone_id: request.zone_id.clone(),
            key_pair_name: request.key_pair_name.clone(),
            private_ips,
            ipv6_addresses: request
                .ipv6_address
                .iter()
                .map(|text| network_interface_ipv6::address(text))
                .collect::<Result<_, _>>()?,
            tags: request.tag.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
        };
        let listed = self.cloud.store.instances(filter, page).await.map_err(from_store)?;
        Ok(DescribeInstancesResponse {
            request_id: String::new(),
            instances: listed.items.into_iter().map(|details| self.describe(details)).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
            next_token: paging::next_token(listed.next.filter(|_| by_token), &request),
        })
    }

    pub(super) async fn describe_instance_status(
        &self,
        request: DescribeInstanceStatusRequest,
    ) -> Result<DescribeInstanceStatusResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        at_most_100("instance_id", request.instance_id.len())?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 50)?;
        let filter = InstanceFilter {
            instance_ids: request.instance_id,
            zone_id: request.zone_id,
            ..Default::default()
        };
        let listed = self.cloud.store.instances(filter, page).await.map_err(from_store)?;
        Ok(DescribeInstanceStatusResponse {
            request_id: String::new(),
            instance_statuses: listed
                .items
                .into_iter()
                .map(|details| InstanceStatus {
                    instance_id: details.instance.instance_id,
                    status: details.instance.status,
                })
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    pub(super) async fn get_instance_console_output(
        &self,
        request: GetInstanceConsoleOutputRequest,
    ) -> Result<GetInstanceConsoleOutputResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (details, host) = self.find_instance(&request.instance_id).await?;
        let mut agent = self.cloud.access.client(&host)?;
        let log = api::host::ReadConsoleLogRequest {
            instance_id: details.instance.instance_id.clone(),
            max_bytes: CONSOLE_BYTES,
        };
        let log = ask(&host.host_id, agent.read_console_log(log)).await?;
        let mut data = log.data;
        if request.remove_symbols {
            data.retain(|byte| matches!(byte, b'\n' | b'\t' | b' '..=b'~'));
        }
        let updated = i64::try_from(log.last_update_unix_ms).unwrap_or(0);
        Ok(GetInstanceConsoleOutputResponse {
            request_id: String::new(),
            instance_id: details.instance.instance_id,
            console_output: STANDARD.encode(data),
            last_update_time: timestamp::second(updated),
        })
    }

    pub(super) async fn describe_user_data(
        &self,
        request: DescribeUserDataRequest,
    ) -> Result<DescribeUserDataResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (details, _) = self.find_instance(&request.instance_id).await?;
        Ok(DescribeUserDataResponse {
            request_id: String::new(),
            region_id: self.cloud.options.region_id.clone(),
            instance_id: details.instance.instance_id,
            user_data: STANDARD.encode(details.instance.user_data),
        })
    }

    fn describe(&self, details: InstanceDetails) -> Instance {
        let (public_ip_address, eip_address, internet_max_bandwidth_out) =
            instance_public_ip::describe(&details);
        let record = details.instance;
        let status_reason = match details.host_lost_since_ms {
            None => record.status_reason,
            Some(since) => format!(
                "host {} was last seen at {}; this is its last report, and it goes on when the \
                 host's agent is back",
                record.host_id,
                timestamp::second(since)
            ),
        };
        let stopped_mode = match (record.status.as_str(), record.claimed) {
            (instance_state::STOPPED, true) => "KeepCharging",
            (instance_state::STOPPED, false) => "StopCharging",
            _ => "Not-applicable",
        };
        let mut group_ids: Vec<String> = Vec::new();
        for group_id in details.enis.iter().flat_map(|eni| &eni.security_group_ids) {
            if !group_ids.contains(group_id) {
                group_ids.push(group_id.clone());
            }
        }
        let started = record.reported.as_ref().map_or(0, |reported| reported.started_ms);
        let family = catalog::instance_type(&record.instance_type).map_or("", |kind| kind.family);
        Instance {
            instance_type_family: family.to_owned(),
            vpc_attributes: Some(VpcAttributes {
                vpc_id: record.vpc_id,
                v_switch_id: record.vswitch_id,
                private_ip_address: details
                    .enis
                    .iter()
                    .filter(|eni| eni.primary)
                    .map(|eni| eni.private_ip.to_string())
                    .collect(),
            }),
            network_interfaces: details
                .enis
                .iter()
                .map(|eni| InstanceNetworkInterface {
                    network_interface_id: eni.eni_id.clone(),
                    mac_address: eni.mac.clone(),
                    primary_ip_address: eni.private_ip.to_string(),
                    r#type: eni_state::kind(eni).to_owned(),
                    ipv6_address: eni.ipv6_addresses.iter().map(ToString::to_string).collect(),
                    secondary_private_ip_address: eni
                        .secondary_private_ips
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                })
                .collect(),
            metadata_options: Some(MetadataOptions {
                http_endpoint: if record.metadata_enabled { "enabled" } else { "disabled" }
                    .to_owned(),
                http_tokens: if record.metadata_token_required { "required" } else { "optional" }
                    .to_owned(),
            }),
            tags: record.tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
            disk_ids: details.disks.into_iter().map(|disk| disk.disk_id).collect(),
            instance_id: record.instance_id,
            instance_name: record.name,
            description: record.description,
            status: record.status,
            region_id: self.cloud.options.region_id.clone(),
            zone_id: record.zone_id,
            instance_type: record.instance_type,
            cpu: record.vcpus,
            memory: record.memory_mib,
            image_id: record.image_id,
            host_name: record.host_name,
            key_pair_name: record.key_pair_name,
            creation_time: timestamp::minute(record.created_ms),
            start_time: timestamp::minute(started),
            serial_number: record.uuid,
            security_group_ids: group_ids,
            operation_locks: Vec::new(),
            stopped_mode: stopped_mode.to_owned(),
            deletion_protection: record.deletion_protection,
            instance_charge_type: "PostPaid".to_owned(),
            os_type: "linux".to_owned(),
            os_name: String::new(),
            status_reason,
            host_id: record.host_id,
            public_ip_address,
            eip_address,
            internet_max_bandwidth_out,
        }
    }
}
