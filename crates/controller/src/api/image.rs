//! Images.

use super::{Api, paging, request, service};
use crate::{
    ecs_error::{from_store, invalid, missing, refuse, to_status},
    ids,
    images::{Incoming, inspect},
    timestamp,
    timestamp::now_ms,
    validation,
};
use api::v1::{image_service_server::ImageService, import_image_request::Part, *};
use prost::Message as _;
use store::{ClientToken, ImageFilter, ImageRecord, ImageView, Planned, Refusal, StoreError};
use tonic::{Request, Response, Status, Streaming};

const GIB: u64 = 1 << 30;
/// Bytes of one message of an upload.
const MOST_CHUNK: usize = 1 << 20;

service!(ImageService => Api {
    describe_images: DescribeImagesRequest => DescribeImagesResponse;
    delete_image: DeleteImageRequest => DeleteImageResponse;
}
    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<ImportImageResponse>, Status> {
        let request_id = ids::request();
        match self.import(request.into_inner()).await {
            Ok(mut response) => {
                response.request_id = request_id;
                Ok(Response::new(response))
            }
            Err(refusal) => Err(to_status(&refusal, &request_id)),
        }
    }
);

impl Api {
    async fn import(
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
        let mut image = self.check_header(&header)?;
        if let Some(token) = token.clone()
            && let Some(answer) = self.cloud.store.kept_answer(token).await.map_err(from_store)?
        {
            return request::response(Ok(answer));
        }
        self.cloud.store.begin_image(image.clone()).await.map_err(|error| match error {
            StoreError::AlreadyExists { what } => refuse(
                400,
                "InvalidImageName.Duplicated",
                format!("{what} already exists; choose another name"),
            ),
            error => from_store(error),
        })?;
        // A task of its own, so that a caller who goes away does not leave it half done.
        let api = self.clone();
        let task = tokio::spawn(async move {
            match api.receive(&mut image, &header, stream).await {
                Ok(()) => api.finish(token, image).await,
                Err(refusal) => {
                    image.status = "CreateFailed".to_owned();
                    image.status_reason.clone_from(&refusal.message);
                    api.cloud.images.remove(&image.image_id).await;
                    api.finish(None, image).await?;
                    Err(refusal)
                }
            }
        });
        task.await.map_err(|error| {
            refuse(500, "InternalError", format!("the import was lost: {error}"))
        })?
    }

    fn check_header(&self, header: &ImportImageHeader) -> Result<ImageRecord, Refusal> {
        self.cloud.check_region(&header.region_id)?;
        if header.image_name.is_empty() {
            return Err(missing("image_name"));
        }
        let name = &header.image_name;
        validation::display_name("InvalidImageName.Malformed", "image name", name)?;
        validation::description("InvalidDescription.Malformed", &header.description)?;
        let architecture = match header.architecture.as_str() {
            "" => "x86_64",
            known @ ("x86_64" | "arm64") => known,
            other => {
                return Err(refuse(
                    400,
                    "InvalidArchitecture.Malformed",
                    format!("architecture is {other:?}; it must be x86_64 or arm64"),
                ));
            }
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
        let io = |error: std::io::Error| {
            tracing::error!(image_id, %error, "an image cannot be written");
            refuse(500, "InternalError", format!("image {image_id} cannot be written: {error}"))
        };
        let mut file = self.cloud.images.create(&image_id).await.map_err(io)?;
        loop {
            let message = stream.message().await.map_err(|status| {
                refuse(
                    400,
                    "ImportImage.Interrupted",
                    format!("the upload of image {image_id} broke off: {}", status.message()),
                )
            })?;
            match message.map(|message| message.part) {
                None => break,
                Some(Some(Part::Data(data))) if data.len() <= MOST_CHUNK => {
                    if header.file_bytes > 0
                        && file.length() + data.len() as u64 > header.file_bytes
                    {
                        return Err(invalid(format!(
                            "more than the {} bytes of the header came",
                            header.file_bytes
                        )));
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
        let (path, wanted) = (file.path().to_owned(), header.format.clone());
        let format = tokio::task::spawn_blocking(move || inspect(&path, &wanted))
            .await
            .map_err(|error| refuse(500, "InternalError", error.to_string()))?
            .map_err(|error| {
                refuse(400, "InvalidImageFormat", format!("image {image_id} is refused: {error}"))
            })?;
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

    async fn describe_images(
        &self,
        request: DescribeImagesRequest,
    ) -> Result<DescribeImagesResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let (page, page_number, page_size) =
            paging::numbered(request.page_number, request.page_size, 100)?;
        if !["", "self", "system"].contains(&request.image_owner_alias.as_str()) {
            return Err(invalid(format!(
                "image_owner_alias is {:?}; it must be self or system",
                request.image_owner_alias
            )));
        }
        // Every image is an imported one: a list of system images is empty.
        let statuses = match (request.image_owner_alias.as_str(), request.status.as_str()) {
            ("system", _) => vec!["-".to_owned()],
            (_, "") => vec!["Available".to_owned()],
            (_, list) => list
                .split(',')
                .filter(|status| *status != "Deleted")
                .map(str::to_owned)
                .chain(["-".to_owned()])
                .collect(),
        };
        let filter = ImageFilter {
            image_ids: request.image_id,
            name: request.image_name,
            family: request.image_family,
            statuses,
            architecture: request.architecture,
        };
        let listed = self.cloud.store.images(filter, page).await.map_err(from_store)?;
        Ok(DescribeImagesResponse {
            request_id: String::new(),
            region_id: self.cloud.options.region_id.clone(),
            images: listed.items.into_iter().map(describe).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    async fn delete_image(
        &self,
        request: DeleteImageRequest,
    ) -> Result<DeleteImageResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        let image_id = request.image_id.clone();
        if image_id.is_empty() {
            return Err(missing("image_id"));
        }
        let force = request.force;
        let decide = move |view: &ImageView| {
            let image = view.image.as_ref().filter(|image| image.status != "Deleted");
            let image = image.ok_or_else(|| {
                refuse(
                    404,
                    "InvalidImageId.NotFound",
                    format!("image {image_id} does not exist; DescribeImages lists them"),
                )
            })?;
            if image.status == "Creating" {
                return Err(refuse(
                    403,
                    "ImageIsImporting",
                    format!("image {image_id} is being imported; wait for it"),
                ));
            }
            if !force && !view.used_by.is_empty() {
                return Err(refuse(
                    403,
                    "ImageUsingByInstance",
                    format!(
                        "image {image_id} is in use by {}; delete them first, or use force: the \
                         file then stays until they are gone",
                        view.used_by.join(", ")
                    ),
                ));
            }
            Ok(())
        };
        self.cloud
            .store
            .delete_image(&request.image_id, Box::new(decide))
            .await
            .map_err(from_store)?;
        self.cloud.images.remove_unknown(&*self.cloud.store).await;
        Ok(DeleteImageResponse::default())
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

fn describe((record, used): (ImageRecord, bool)) -> Image {
    Image {
        progress: if record.status == "Available" { "100%" } else { "0%" }.to_owned(),
        usage: if used { "instance" } else { "none" }.to_owned(),
        os_name: record.platform.clone(),
        image_id: record.image_id,
        image_name: record.name,
        description: record.description,
        status: record.status,
        architecture: record.architecture,
        os_type: record.os_type,
        platform: record.platform,
        size: record.virtual_bytes.div_ceil(GIB),
        creation_time: timestamp::minute(record.created_ms),
        image_owner_alias: "self".to_owned(),
        image_family: record.family,
        status_reason: record.status_reason,
        file_bytes: record.file_bytes,
        sha256: record.sha256,
        format: record.format,
    }
}
