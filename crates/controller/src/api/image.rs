//! Images.

use super::{Api, paging, request, service};
use crate::{
    ecs_error::{from_store, image_not_found, invalid, missing, refuse, to_status},
    ids, timestamp,
};
use api::v1::{image_service_server::ImageService, *};
use store::{ImageFilter, ImageRecord, ImageView, Refusal};
use tonic::{Request, Response, Status, Streaming};

const GIB: u64 = 1 << 30;

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
        request::at_most_100("image_id", request.image_id.len())?;
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
        let imports = self.cloud.imports.clone();
        let decide = move |view: &ImageView| {
            let image = view.image.as_ref().filter(|image| image.status != "Deleted");
            let image = image.ok_or_else(|| image_not_found(&image_id))?;
            // One that is Creating without an import was left behind, and goes like any other.
            if image.status == "Creating" && imports.is_running(&image_id) {
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
        self.cloud.images.remove_stray(&*self.cloud.store).await;
        Ok(DeleteImageResponse::default())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cloud, CloudOptions, DataDir};
    use std::{sync::Arc, time::Duration};
    use store::{SqliteOptions, SqliteStore};

    #[tokio::test]
    async fn an_image_that_an_import_left_behind_can_be_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteOptions { path: directory.path().join("ecs.db"), readers: 1 };
        let store = Arc::new(SqliteStore::open(&options).unwrap());
        let api = Api::new(Cloud::new(
            store,
            CloudOptions {
                data_dir: DataDir::lock(directory.path()).unwrap(),
                region_id: "r".to_owned(),
                zone_ids: Vec::new(),
                lease: Duration::from_secs(15),
                cpu_overcommit: 1.0,
                disk_overcommit: 1.0,
                stop_timeout: Duration::from_secs(60),
                join_token: String::new(),
                dns_servers: Vec::new(),
                ntp_servers: Vec::new(),
                owner_account_id: String::new(),
            },
        ));
        let header = ImportImageHeader { image_name: "left".to_owned(), ..Default::default() };
        let image = api.check_header(&header).unwrap();
        let running = api.cloud.imports.begin(&image.image_id, None).unwrap();
        api.cloud.store.begin_image(image.clone()).await.unwrap();
        let delete =
            || DeleteImageRequest { image_id: image.image_id.clone(), ..Default::default() };
        let refused = api.delete_image(delete()).await.unwrap_err();
        assert_eq!(refused.code, "ImageIsImporting");
        drop(running);
        api.delete_image(delete()).await.unwrap();
        api.cloud.store.begin_image(image).await.unwrap();
    }
}
