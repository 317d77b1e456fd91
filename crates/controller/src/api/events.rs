//! What happened to instances.

use super::{Api, paging, request::at_most_100};
use crate::{ecs_error::from_store, timestamp};
use api::v1::{
    DescribeInstanceHistoryEventsRequest, DescribeInstanceHistoryEventsResponse,
    InstanceSystemEvent,
};
use store::{EventFilter, Refusal};

impl Api {
    pub(super) async fn describe_instance_history_events(
        &self,
        request: DescribeInstanceHistoryEventsRequest,
    ) -> Result<DescribeInstanceHistoryEventsResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 100)?;
        at_most_100("instance_event_type", request.instance_event_type.len())?;
        let filter = EventFilter {
            resource_id: request.instance_id,
            event_types: request.instance_event_type,
        };
        let listed = self.cloud.store.events(filter, page).await.map_err(from_store)?;
        Ok(DescribeInstanceHistoryEventsResponse {
            request_id: String::new(),
            instance_system_event_set: listed
                .items
                .into_iter()
                .map(|event| InstanceSystemEvent {
                    event_id: event.event_id,
                    instance_id: event.resource_id,
                    event_type: event.event_type,
                    event_cycle_status: "Executed".to_owned(),
                    event_publish_time: timestamp::second(event.occurred_ms),
                    reason: event.message,
                })
                .collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }
}
