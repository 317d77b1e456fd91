//! `ImportImage`: taking a file in.

use super::{Api, request};
use crate::{
    ecs_error::{from_store, invalid, missing, refuse},
    ids,
    images::{Incoming, MOST_BYTES, inspect},
    timestamp::now_ms,
    validation,
};
use api::v1::{
    ImportImageHeader, ImportImageRequest, ImportImageResponse, import_image_request::Part,
};
use prost::Message as _;
use std::{io, time::Duration};
use store::{ClientToken, ImageRecord, Planned, Refusal, StoreError};
use tonic::{Status, Streaming};

/// Bytes of one message of an upload.
const MOST_CHUNK: usize = 1 << 20;
/// An upload that is silent for longer has broken off.
const SILENCE: Duration = Duration::from_secs(60);

impl Api {
    pub(super) async fn import(
        &self,
        mut stream: Streaming<ImportImageRequest>,
    ) -> Result<ImportImageResponse, Refusal> {
        let broken = |status: Status| {
            refuse(400, "ImportImage.Interrupted", format!("the upload broke off: {status}"))
        };
        let Some(Part::Header(header)) =
            stream.message().await.map_err(broken)?.and_then(|message| message.part)
        else {
            return Err(invalid("the first message of ImportImage must be its header"));
        };
        let token = request::token("ImportImage", &header.client_token, &header)?;
        let image = self.check_header(&header)?;
        // First of all: once it is known to run alone, an answer kept before stays the only one.
        let running = self.cloud.imports.begin(&image.image_id, token.as_ref())?;
        if let Some(token) = token.clone()
            && let Some(answer) = self.cloud.store.kept_answer(token).await.map_err(from_store)?
        {
            return request::response(Ok(answer));
        }
        // A task of its own from its first write on: a caller who goes away leaves nothing half done.
        let api = self.clone();
        let task = tokio::spawn(async move {
            let _running = running;
            api.take_in(image, token, &header, stream).await
        });
        task.await.map_err(|error| {
            refuse(500, "InternalError", format!("the import was lost: {error}"))
        })?
    }

    async fn take_in(
        &self,
        mut image: ImageRecord,
        token: Option<ClientToken>,
        header: &ImportImageHeader,
        stream: Streaming<ImportImageRequest>,
    ) -> Result<ImportImageResponse, Refusal> {
        self.cloud.store.begin_image(image.clone()).await.map_err(|error| match error {
            StoreError::AlreadyExists { what } => refuse(
                400,
                "InvalidImageName.Duplicated",
                format!("{what} already exists; choose another name"),
            ),
            error => from_store(error),
        })?;
        let ended = match self.receive(&mut image, header, stream).await {
            Ok(()) => self.finish(token, image.clone()).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &ended {
            image.status = "CreateFailed".to_owned();
            image.status_reason.clone_from(&refusal.message);
            self.cloud.images.remove(&image.image_id).await;
            let image_id = image.image_id.clone();
            if let Err(error) = self.finish(None, image).await {
                tracing::error!(image_id, %error, "a failed import stays Creating until it is deleted");
            }
        }
        ended
    }

    pub(super) fn check_header(&self, header: &ImportImageHeader) -> Result<ImageRecord, Refusal> {
        self.cloud.check_region(&header.region_id)?;
        if header.image_name.is_empty() {
            return Err(missing("image_name"));
        }
        let name = &header.image_name;
        validation::image_name("InvalidImageName.Malformed", "image name", name)?;
        validation::description("InvalidDescription.Malformed", &header.description)?;
        validation::architecture(&header.architecture)?;
        let architecture = match header.architecture.as_str() {
            "" => "x86_64",
            known => known,
        };
        if !["", "linux"].contains(&header.os_type.as_str()) {
            return Err(invalid(format!("os_type is {:?}; it must be linux", header.os_type)));
        }
        if !["", "qcow2", "raw"].contains(&header.format.as_str()) {
            return Err(invalid(format!(
                "format is {:?}; it must be qcow2 or raw, or empty to look at the file",
                header.format
            )));
        }
        if header.file_bytes > MOST_BYTES {
            return Err(invalid(format!(
                "file_bytes is {}; an image has at most {MOST_BYTES}",
                header.file_bytes
            )));
        }
        let hex = header.sha256.len() == 64 && header.sha256.bytes().all(|b| b.is_ascii_hexdigit());
        if !header.sha256.is_empty() && !hex {
            return Err(invalid("sha256 must be 64 hexadecimal digits"));
        }
        validation::label("platform", &header.platform)?;
        validation::image_name(
            "InvalidImageFamily.Malformed",
            "image family",
            &header.image_family,
        )?;
        Ok(ImageRecord {
            image_id: ids::image(),
            name: header.image_name.clone(),
            description: header.description.clone(),
            status: "Creating".to_owned(),
            status_reason: String::new(),
            architecture: architecture.to_owned(),
            os_type: "linux".to_owned(),
            platform: header.platform.clone(),
            family: header.image_family.clone(),
            format: header.format.clone(),
            file_bytes: header.file_bytes,
            virtual_bytes: 0,
            sha256: header.sha256.to_ascii_lowercase(),
            created_ms: now_ms(),
            ..Default::default()
        })
    }

    /// Takes the file in, checks it, and gives it its name.
    async fn receive(
        &self,
        image: &mut ImageRecord,
        header: &ImportImageHeader,
        mut stream: Streaming<ImportImageRequest>,
    ) -> Result<(), Refusal> {
        let image_id = image.image_id.clone();
        let io = |error: io::Error| {
            if error.kind() == io::ErrorKind::StorageFull {
                return refuse(
                    403,
                    "QuotaExceed.Image",
                    format!("no room for image {image_id}: {error}; delete images you do not need"),
                );
            }
            tracing::error!(image_id, %error, "an image cannot be written");
            refuse(500, "InternalError", format!("image {image_id} cannot be written: {error}"))
        };
        let broken_off = |why: &str| {
            refuse(
                400,
                "ImportImage.Interrupted",
                format!("the upload of image {image_id} broke off: {why}; import it again"),
            )
        };
        let most = if header.file_bytes > 0 { header.file_bytes } else { MOST_BYTES };
        let mut file = self.cloud.images.create(&image_id, header.file_bytes).await.map_err(io)?;
        loop {
            let message = tokio::time::timeout(SILENCE, stream.message())
                .await
                .map_err(|_| broken_off("nothing came for a minute"))?
                .map_err(|status| broken_off(status.message()))?;
            match message.map(|message| message.part) {
                None => break,
                Some(Some(Part::Data(data))) if data.len() <= MOST_CHUNK => {
                    if file.length() + data.len() as u64 > most {
                        return Err(invalid(if header.file_bytes > 0 {
                            format!("more than the {most} bytes of the header came")
                        } else {
                            format!("more than {most} bytes came, the most an image has")
                        }));
                    }
                    file.write(&data).await.map_err(io)?;
                }
                Some(Some(Part::Data(data))) => {
                    return Err(invalid(format!(
                        "a message has {} bytes; at most {MOST_CHUNK} are allowed",
                        data.len()
                    )));
                }
                Some(_) => {
                    return Err(invalid("after the header only data may come"));
                }
            }
        }
        let sha256 = file.sync().await.map_err(io)?;
        check_whole(header, &file, &sha256)?;
        let looked_at = inspect(file.path().to_owned(), header.format.clone()).await;
        let format = looked_at.map_err(|error| {
            refuse(400, "InvalidImageFormat", format!("image {image_id} is refused: {error}"))
        })?;
        if format.encrypted {
            return Err(refuse(
                400,
                "InvalidImageFormat",
                format!(
                    "image {image_id} is refused: it is encrypted, and its key is not known here; \
                     decrypt it with qemu-img convert -O qcow2"
                ),
            ));
        }
        image.file_bytes = file.length();
        image.sha256 = sha256;
        image.format = format.name.to_owned();
        image.virtual_bytes = format.virtual_bytes;
        image.status = "Available".to_owned();
        file.complete().await.map_err(io)
    }

    async fn finish(
        &self,
        token: Option<ClientToken>,
        image: ImageRecord,
    ) -> Result<ImportImageResponse, Refusal> {
        let answer = ImportImageResponse {
            request_id: String::new(),
            image_id: image.image_id.clone(),
            region_id: self.cloud.options.region_id.clone(),
        };
        let planned = Planned { record: image, answer: answer.encode_to_vec() };
        request::response(self.cloud.store.finish_image(token, planned).await)
    }
}

fn check_whole(header: &ImportImageHeader, file: &Incoming, sha256: &str) -> Result<(), Refusal> {
    if header.file_bytes > 0 && file.length() != header.file_bytes {
        return Err(invalid(format!(
            "{} of {} bytes came; upload the whole file",
            file.length(),
            header.file_bytes
        )));
    }
    if !header.sha256.is_empty() && !header.sha256.eq_ignore_ascii_case(sha256) {
        return Err(refuse(
            400,
            "InvalidImageChecksum.Mismatch",
            format!("the file's SHA-256 is {sha256}, not {}; upload it again", header.sha256),
        ));
    }
    Ok(())
}
