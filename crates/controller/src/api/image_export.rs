//! `ExportImage`.

use super::Api;
use crate::{
    ecs_error::{dry_run, from_store, image_not_found, invalid, missing, refuse, to_status},
    image_state::AVAILABLE,
    images,
};
use api::v1::{
    ExportImageHeader, ExportImageRequest, ExportImageResponse, export_image_response::Part,
};
use futures::{StreamExt as _, stream::BoxStream};
use qcow2::Format;
use std::ops::ControlFlow;
use store::{ImageFilter, ImageRecord, Page, Refusal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Pieces on the way to a slow reader, of 1 MiB each.
const IN_FLIGHT: usize = 4;

type Parts = BoxStream<'static, Result<ExportImageResponse, Status>>;

fn part(part: Part) -> ExportImageResponse {
    ExportImageResponse { part: Some(part) }
}

impl Api {
    /// An image that is Available.
    async fn available(&self, image_id: &str) -> Result<ImageRecord, Refusal> {
        let filter = ImageFilter { image_ids: vec![image_id.to_owned()], ..Default::default() };
        let page = Page::Offset { offset: 0, limit: 1 };
        let listed = self.cloud.store.images(filter, page).await.map_err(from_store)?;
        let found = listed.items.into_iter().map(|(image, _)| image);
        let mut found = found.filter(|image| image.status != "Deleted");
        let image = found.next().ok_or_else(|| image_not_found(image_id))?;
        if image.status != AVAILABLE {
            return Err(refuse(
                400,
                "IncorrectImageStatus",
                format!("image {image_id} is {}; it must be Available", image.status),
            ));
        }
        Ok(image)
    }

    pub(super) async fn export(
        &self,
        request: ExportImageRequest,
        request_id: String,
    ) -> Result<Parts, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.image_id.is_empty() {
            return Err(missing("image_id"));
        }
        let wanted = request.image_format.to_ascii_lowercase();
        if !["", "qcow2", "raw"].contains(&wanted.as_str()) {
            return Err(invalid(format!(
                "image_format is {wanted:?}; it must be qcow2 or raw, or empty for its own"
            )));
        }
        let image = self.available(&request.image_id).await?;
        if image.data_key.is_some() {
            return Err(refuse(
                403,
                "OperationDenied",
                format!(
                    "image {} is encrypted, and what is encrypted does not leave the cloud; copy \
                     its files from an instance",
                    image.image_id
                ),
            ));
        }
        if request.dry_run {
            return Err(dry_run());
        }
        let running = self.cloud.exports.begin(&image.image_id)?;
        let image_id = image.image_id;
        let file = self.cloud.images.open(&image_id).await.map_err(|error| {
            tracing::error!(image_id, %error, "an image file cannot be opened");
            refuse(500, "InternalError", format!("image {image_id} cannot be read: {error}"))
        })?;
        let format = |name: &str| if name == "raw" { Format::Raw } else { Format::Qcow2 };
        let stored = format(&image.format);
        let wanted = if wanted.is_empty() { image.format } else { wanted };
        let header = ExportImageHeader {
            request_id: request_id.clone(),
            image_id: image_id.clone(),
            file_bytes: match (stored, format(&wanted)) {
                (Format::Raw, Format::Qcow2) => 0,
                (Format::Qcow2, Format::Raw) => image.virtual_bytes,
                _ => image.file_bytes,
            },
            format: wanted.clone(),
            virtual_bytes: image.virtual_bytes,
        };
        let (parts, stream) = mpsc::channel(IN_FLIGHT);
        tokio::task::spawn_blocking(move || {
            let _running = running;
            let put = |wanted: Part| match parts.blocking_send(Ok(part(wanted))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            if put(Part::Header(header)).is_break() {
                return;
            }
            let sent = images::send(file, stored, format(&wanted), |piece| put(Part::Piece(piece)));
            let last = match sent {
                Ok(None) => return,
                Ok(Some(end)) => Ok(part(Part::End(end))),
                Err(error) => {
                    tracing::error!(image_id, %error, "an image cannot be exported");
                    let message = format!("image {image_id} cannot be read: {error}");
                    Err(to_status(&refuse(500, "InternalError", message), &request_id))
                }
            };
            // Nobody is left to hear it then.
            let _ = parts.blocking_send(last);
        });
        Ok(ReceiverStream::new(stream).boxed())
    }
}
