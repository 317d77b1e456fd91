//! Waits until an image is Available.

use super::{Context, find};
use crate::{
    error::{Error, Result},
    output::progress::Progress,
};
use api::v1::Image;
use clap::Args;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct WaitArguments {
    /// Come back only when the image is Available
    #[arg(long)]
    pub(super) wait: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 1800, requires = "wait")]
    timeout: u64,
}

impl WaitArguments {
    /// Waits, if that was asked for.
    pub(super) async fn until_available(&self, context: &Context, id: &str) -> Result<()> {
        match self.wait {
            true => until_available(context, id, Duration::from_secs(self.timeout)).await,
            false => Ok(()),
        }
    }
}

/// Waits until an image is Available. A cloud that is away meanwhile is asked again until the time is
/// up.
pub(super) async fn until_available(context: &Context, id: &str, patience: Duration) -> Result<()> {
    let progress = Progress::percent(&format!("image {id}"));
    let started = Instant::now();
    let late = || started.elapsed() > patience;
    loop {
        let image = match find(context, id).await {
            Ok(image) => image,
            Err(error) if error.is_transient() && !late() => {
                progress.set(&format!("the cloud does not answer ({error}); asking again"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        match image.status.as_str() {
            "Available" => {
                progress.done("Available");
                return Ok(());
            }
            "CreateFailed" => {
                progress.done("CreateFailed");
                let reason = &image.status_reason;
                return Err(Error::Failed(format!("image {id} cannot be made: {reason}")));
            }
            _ => {
                progress.position(percent(&image));
                progress.set(&said(&image));
            }
        }
        if late() {
            progress.done(&image.status);
            return Err(Error::TimedOut(format!(
                "image {id} not Available after {} s: {}. `ecsctl image show` says more; --timeout \
                 waits longer",
                patience.as_secs(),
                said(&image)
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn percent(image: &Image) -> u64 {
    image.progress.trim_end_matches('%').parse().unwrap_or(0)
}

fn said(image: &Image) -> String {
    match image.status_reason.as_str() {
        "" => format!("{} {}", image.status, image.progress),
        reason => format!("{}: {reason}", image.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_an_image_is_is_said_with_what_it_waits_for() {
        let image = |reason: &str| Image {
            status: "Creating".to_owned(),
            progress: "42%".to_owned(),
            status_reason: reason.to_owned(),
            ..Default::default()
        };
        assert_eq!((percent(&image("")), said(&image("")).as_str()), (42, "Creating 42%"));
        assert_eq!(said(&image("host h is away")), "Creating: host h is away");
        assert_eq!(percent(&Image::default()), 0);
    }
}
