//! Looking into instances.

use super::Context;
use crate::{
    commands::pages,
    error::{Error, Result},
    output::{
        Format, json,
        table::{self},
    },
};
use api::v1::{
    DescribeInstanceHistoryEventsRequest, DescribeInstanceStatusRequest, DescribeInstancesRequest,
    DescribeUserDataRequest, GetInstanceConsoleOutputRequest, Instance,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use std::io::Write as _;

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Ids; left out: all
    ids: Vec<String>,
    /// Name, * as wildcard
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Pending, Starting, Running, Stopping or Stopped
    #[arg(long, default_value = "", hide_default_value = true)]
    status: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    vpc: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    vswitch: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    security_group: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    image: String,
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    instance_type: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    key_pair: String,
    /// KEY=VALUE
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<api::v1::Tag>,
}

pub(super) async fn list(context: &Context, arguments: ListArguments) -> Result<()> {
    let request = DescribeInstancesRequest {
        region_id: context.region.clone(),
        instance_ids: arguments.ids,
        instance_name: arguments.name,
        status: arguments.status,
        vpc_id: arguments.vpc,
        v_switch_id: arguments.vswitch,
        security_group_id: arguments.security_group,
        image_id: arguments.image,
        instance_type: arguments.instance_type,
        zone_id: arguments.zone,
        key_pair_name: arguments.key_pair,
        tag: arguments.tags,
        ..Default::default()
    };
    table::print(context.format, &describe(context, request).await?);
    Ok(())
}

/// A question for these instances.
pub(super) fn by_ids(context: &Context, ids: &[String]) -> DescribeInstancesRequest {
    DescribeInstancesRequest {
        region_id: context.region.clone(),
        instance_ids: ids.to_vec(),
        ..Default::default()
    }
}

/// Every instance a question finds.
pub(super) async fn describe(
    context: &Context,
    request: DescribeInstancesRequest,
) -> Result<Vec<Instance>> {
    let mut instances = Vec::new();
    let mut next_token = String::new();
    loop {
        let request = DescribeInstancesRequest {
            max_results: 100,
            next_token: next_token.clone(),
            ..request.clone()
        };
        let mut answer = context.cloud.instances().describe_instances(request).await?.into_inner();
        instances.append(&mut answer.instances);
        if answer.next_token.is_empty() || answer.next_token == next_token {
            return Ok(instances);
        }
        next_token = answer.next_token;
    }
}

/// One instance.
pub(crate) async fn find(context: &Context, id: &str) -> Result<Instance> {
    let found = describe(context, by_ids(context, &[id.to_owned()])).await?;
    found.into_iter().next().ok_or_else(|| {
        Error::Refused(Box::new(api::error::status(
            tonic::Code::NotFound,
            "InvalidInstanceId.NotFound",
            format!("there is no instance {id}"),
            "",
        )))
    })
}

pub(super) async fn show(context: &Context, id: &str) -> Result<()> {
    table::print_one(context.format, &find(context, id).await?);
    Ok(())
}

pub(super) async fn status(context: &Context, ids: Vec<String>) -> Result<()> {
    let mut service = context.cloud.instances();
    let statuses = pages::all(async |page_number| {
        let request = DescribeInstanceStatusRequest {
            region_id: context.region.clone(),
            instance_id: ids.clone(),
            zone_id: String::new(),
            page_number,
            page_size: pages::PAGE_SIZE,
        };
        let answer = service.describe_instance_status(request).await?.into_inner();
        Ok((answer.instance_statuses, answer.total_count))
    })
    .await?;
    table::print(context.format, &statuses);
    Ok(())
}

pub(super) async fn console_output(context: &Context, id: String, plain: bool) -> Result<()> {
    let request = GetInstanceConsoleOutputRequest {
        region_id: context.region.clone(),
        instance_id: id.clone(),
        remove_symbols: plain,
    };
    let answer = context.cloud.instances().get_instance_console_output(request).await?.into_inner();
    print_decoded(context, &answer, &answer.console_output, &id)
}

pub(super) async fn user_data(context: &Context, id: String) -> Result<()> {
    let request =
        DescribeUserDataRequest { region_id: context.region.clone(), instance_id: id.clone() };
    let answer = context.cloud.instances().describe_user_data(request).await?.into_inner();
    print_decoded(context, &answer, &answer.user_data, &id)
}

/// Prints what came in Base64 as it is; as JSON the answer stays as it came.
fn print_decoded<T: serde::Serialize>(
    context: &Context,
    answer: &T,
    base64: &str,
    id: &str,
) -> Result<()> {
    if context.format == Format::Json {
        json::print(answer);
        return Ok(());
    }
    let bytes = STANDARD
        .decode(base64)
        .map_err(|e| Error::Failed(format!("what the cloud sent of {id} is not Base64: {e}")))?;
    let mut output = std::io::stdout().lock();
    output
        .write_all(&bytes)
        .and_then(|()| output.flush())
        .map_err(Error::io("cannot write to standard output"))
}

pub(super) async fn events(context: &Context, id: String, types: Vec<String>) -> Result<()> {
    let mut service = context.cloud.instances();
    let events = pages::all(async |page_number| {
        let request = DescribeInstanceHistoryEventsRequest {
            region_id: context.region.clone(),
            instance_id: id.clone(),
            instance_event_type: types.clone(),
            page_number,
            page_size: pages::PAGE_SIZE,
        };
        let answer = service.describe_instance_history_events(request).await?.into_inner();
        Ok((answer.instance_system_event_set, answer.total_count))
    })
    .await?;
    table::print(context.format, &events);
    Ok(())
}
