//! Images.

use super::{Api, paging, request, service};
use crate::{
    disk_state,
    ecs_error::{dry_run, from_store, invalid, missing, refuse, to_status},
    ids,
    image_state::{self, AVAILABLE, CREATING},
    timestamp,
};
use api::v1::{image_service_server::ImageService, *};
use futures::stream::BoxStream;
use store::{ImageDisk, ImageFilter, ImageRecord, ImageView, Page, Refusal};
use tonic::{Request, Response, Status, Streaming};

const GIB: u64 = 1 << 30;

service!(ImageService => Api {
    describe_images: DescribeImagesRequest => DescribeImagesResponse;
    describe_image_from_family:
        DescribeImageFromFamilyRequest => DescribeImageFromFamilyResponse;
    create_image: CreateImageRequest => CreateImageResponse;
    copy_image: CopyImageRequest => CopyImageResponse;
    modify_image_attribute: ModifyImageAttributeRequest => ModifyImageAttributeResponse;
    delete_image: DeleteImageRequest => DeleteImageResponse;
}
    type ExportImageStream = BoxStream<'static, Result<ExportImageResponse, Status>>;

    async fn export_image(
        &self,
        request: Request<ExportImageRequest>,
    ) -> Result<Response<Self::ExportImageStream>, Status> {
        let request_id = ids::request();
        match self.export(request.into_inner(), request_id.clone()).await {
            Ok(stream) => Ok(Response::new(stream)),
            Err(refusal) => Err(to_status(&refusal, &request_id)),
        }
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
            snapshot_id: request.snapshot_id,
            tags: request.tag.into_iter().map(|tag| (tag.key, tag.value)).collect(),
        };
        let listed = self.cloud.store.images(filter, page).await.map_err(from_store)?;
        Ok(DescribeImagesResponse {
            request_id: String::new(),
            region_id: self.cloud.options.region_id.clone(),
            images: listed.items.into_iter().map(|listed| self.image(listed)).collect(),
            total_count: paging::total(listed.total),
            page_number,
            page_size,
        })
    }

    async fn describe_image_from_family(
        &self,
        request: DescribeImageFromFamilyRequest,
    ) -> Result<DescribeImageFromFamilyResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.image_family.is_empty() {
            return Err(missing("image_family"));
        }
        let filter = ImageFilter {
            family: request.image_family.clone(),
            statuses: vec![AVAILABLE.to_owned()],
            ..Default::default()
        };
        let page = Page::Offset { offset: 0, limit: 1 };
        let listed = self.cloud.store.images(filter, page).await.map_err(from_store)?;
        let newest = listed.items.into_iter().next();
        let newest = newest.ok_or_else(|| family_not_found(&request.image_family))?;
        let image = Some(self.image(newest));
        Ok(DescribeImageFromFamilyResponse { request_id: String::new(), image })
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
        let (force, only_checks) = (request.force, request.dry_run);
        let (imports, exports) = (self.cloud.imports.clone(), self.cloud.exports.clone());
        let decide = move |view: &ImageView| {
            let image = image_state::existing(view.image.as_ref(), &image_id)?;
            // Another that is Creating was left behind, or stops being made.
            if image.status == CREATING && imports.is_running(&image_id) {
                return Err(refuse(
                    403,
                    "ImageIsImporting",
                    format!("image {image_id} is being imported; wait for it"),
                ));
            }
            if exports.is_running(&image_id) {
                return Err(refuse(
                    403,
                    "ImageIsExporting",
                    format!("image {image_id} is being exported; wait for it"),
                ));
            }
            if !view.copies.is_empty() {
                return Err(refuse(
                    403,
                    "OperationDenied.ImageCopying",
                    format!(
                        "image {image_id} is being copied to {}; wait for it",
                        view.copies.join(", ")
                    ),
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
            if only_checks {
                return Err(dry_run());
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

/// 404 of a family.
pub(super) fn family_not_found(family: &str) -> Refusal {
    refuse(
        404,
        "InvalidImageId.NotFound",
        format!("no image of family {family:?} is Available; DescribeImages lists images"),
    )
}

impl Api {
    fn image(&self, (record, used): (ImageRecord, bool)) -> Image {
        let build = (record.status == CREATING).then(|| self.cloud.builds.of(&record.image_id));
        let build = build.flatten().unwrap_or_default();
        let percent = if record.status == AVAILABLE { 100 } else { build.percent };
        let disk = |(position, disk): (u32, &ImageDisk)| DiskDeviceMapping {
            device: disk_state::device(position),
            r#type: if position == 0 { "system" } else { "data" }.to_owned(),
            snapshot_id: disk.snapshot_id.clone(),
            size: disk.size_gib,
        };
        Image {
            progress: format!("{percent}%"),
            usage: if used { "instance" } else { "none" }.to_owned(),
            os_name: record.platform.clone(),
            disk_device_mappings: (0..).zip(&record.disks).map(disk).collect(),
            image_id: record.image_id,
            image_name: record.name,
            description: record.description,
            architecture: record.architecture,
            os_type: record.os_type,
            platform: record.platform,
            size: record.virtual_bytes.div_ceil(GIB),
            creation_time: timestamp::minute(record.created_ms),
            image_owner_alias: "self".to_owned(),
            image_family: record.family,
            status_reason: if record.status == CREATING {
                build.reason
            } else {
                record.status_reason
            },
            status: record.status,
            file_bytes: record.file_bytes,
            sha256: record.sha256,
            format: record.format,
            image_version: record.version,
            is_copied: !record.source_image_id.is_empty(),
            tags: record.tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
            source_image_id: record.source_image_id,
            encrypted: record.data_key.is_some(),
            kms_key_id: record.data_key.map(|key| key.kms_key_id).unwrap_or_default(),
        }
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
                eip_ranges: Vec::new(),
                protected_cidrs: Vec::new(),
                kms: Arc::new(kms::KeyFolder::new("/nonexistent")),
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
