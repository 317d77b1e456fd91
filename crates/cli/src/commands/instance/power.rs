//! Starting, stopping, rebooting and deleting.

use super::{
    Context,
    wait::{self, Goal, WaitArguments},
};
use crate::{
    error::{Error, Result},
    output::table,
};
use api::v1::{
    DeleteInstanceRequest, DeleteInstancesRequest, InstanceResponse, RebootInstanceRequest,
    RebootInstancesRequest, StartInstanceRequest, StartInstancesRequest, StopInstanceRequest,
    StopInstancesRequest,
};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Start those that can be, not all or none
    #[arg(long)]
    success_first: bool,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Without asking the guest
    #[arg(long)]
    force: bool,
    /// Give up CPU and memory until the next start
    #[arg(long)]
    stop_charging: bool,
    /// Stop those that can be, not all or none
    #[arg(long)]
    success_first: bool,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RebootArguments {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Without asking the guest
    #[arg(long)]
    force: bool,
    /// Reboot those that can be, not all or none
    #[arg(long)]
    success_first: bool,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Also running ones
    #[arg(long)]
    force: bool,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

fn optimization(success_first: bool) -> String {
    if success_first { "SuccessFirst".to_owned() } else { String::new() }
}

/// Shows each instance's answer; an error if any of them was refused.
fn batch<T: serde::Serialize>(
    context: &Context,
    answer: &T,
    responses: &[InstanceResponse],
) -> Result<Vec<String>> {
    match context.format {
        crate::output::Format::Json => crate::output::json::print(answer),
        format => table::print(format, responses),
    }
    let (accepted, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|r| r.code == "200");
    if let [first, ..] = refused.as_slice() {
        return Err(Error::Failed(format!(
            "{} of {} refused; {}: {} ({})",
            refused.len(),
            responses.len(),
            first.instance_id,
            first.message,
            first.code
        )));
    }
    Ok(accepted.into_iter().map(|r| r.instance_id.clone()).collect())
}

pub(super) async fn start(context: &Context, arguments: StartArguments) -> Result<()> {
    let mut service = context.cloud.instances();
    let ids = arguments.ids;
    if let [id] = ids.as_slice() {
        let request = StartInstanceRequest { instance_id: id.clone(), dry_run: arguments.dry_run };
        let answer = service.start_instance(request).await?.into_inner();
        wait::until(context, &ids, Goal::Running, &arguments.wait).await?;
        let sentence = arguments.wait.sentence(&ids, "starting", Goal::Running);
        context.done(&answer, &ids, &sentence);
        return Ok(());
    }
    let request = StartInstancesRequest {
        region_id: context.region.clone(),
        instance_id: ids,
        batch_optimization: optimization(arguments.success_first),
        dry_run: arguments.dry_run,
    };
    let answer = service.start_instances(request).await?.into_inner();
    let accepted = batch(context, &answer, &answer.instance_responses)?;
    wait::until(context, &accepted, Goal::Running, &arguments.wait).await
}

pub(super) async fn stop(context: &Context, arguments: StopArguments) -> Result<()> {
    let mut service = context.cloud.instances();
    let ids = arguments.ids;
    let mode = if arguments.stop_charging { "StopCharging".to_owned() } else { String::new() };
    if let [id] = ids.as_slice() {
        let request = StopInstanceRequest {
            instance_id: id.clone(),
            force_stop: arguments.force,
            stopped_mode: mode,
            dry_run: arguments.dry_run,
        };
        let answer = service.stop_instance(request).await?.into_inner();
        wait::until(context, &ids, Goal::Stopped, &arguments.wait).await?;
        let sentence = arguments.wait.sentence(&ids, "stopping", Goal::Stopped);
        context.done(&answer, &ids, &sentence);
        return Ok(());
    }
    let request = StopInstancesRequest {
        region_id: context.region.clone(),
        instance_id: ids,
        force_stop: arguments.force,
        stopped_mode: mode,
        batch_optimization: optimization(arguments.success_first),
        dry_run: arguments.dry_run,
    };
    let answer = service.stop_instances(request).await?.into_inner();
    let accepted = batch(context, &answer, &answer.instance_responses)?;
    wait::until(context, &accepted, Goal::Stopped, &arguments.wait).await
}

pub(super) async fn reboot(context: &Context, arguments: RebootArguments) -> Result<()> {
    let mut service = context.cloud.instances();
    let ids = arguments.ids;
    if let [id] = ids.as_slice() {
        let request = RebootInstanceRequest {
            instance_id: id.clone(),
            force_stop: arguments.force,
            dry_run: arguments.dry_run,
        };
        let answer = service.reboot_instance(request).await?.into_inner();
        wait::until(context, &ids, Goal::Running, &arguments.wait).await?;
        let sentence = arguments.wait.sentence(&ids, "rebooting", Goal::Running);
        context.done(&answer, &ids, &sentence);
        return Ok(());
    }
    let request = RebootInstancesRequest {
        region_id: context.region.clone(),
        instance_id: ids,
        force_reboot: arguments.force,
        batch_optimization: optimization(arguments.success_first),
        dry_run: arguments.dry_run,
    };
    let answer = service.reboot_instances(request).await?.into_inner();
    let accepted = batch(context, &answer, &answer.instance_responses)?;
    wait::until(context, &accepted, Goal::Running, &arguments.wait).await
}

pub(super) async fn delete(context: &Context, arguments: DeleteArguments) -> Result<()> {
    let mut service = context.cloud.instances();
    let ids = arguments.ids;
    let ordered = "will be deleted; --wait waits until it is";
    let sentence = arguments.wait.sentence(&ids, ordered, Goal::Gone);
    if let [id] = ids.as_slice() {
        let request = DeleteInstanceRequest {
            instance_id: id.clone(),
            force: arguments.force,
            dry_run: arguments.dry_run,
        };
        let answer = service.delete_instance(request).await?.into_inner();
        wait::until(context, &ids, Goal::Gone, &arguments.wait).await?;
        context.done(&answer, &ids, &sentence);
        return Ok(());
    }
    let request = DeleteInstancesRequest {
        region_id: context.region.clone(),
        instance_id: ids.clone(),
        force: arguments.force,
        dry_run: arguments.dry_run,
        client_token: String::new(),
    };
    let answer = service.delete_instances(request).await?.into_inner();
    wait::until(context, &ids, Goal::Gone, &arguments.wait).await?;
    context.done(&answer, &ids, &sentence);
    Ok(())
}
