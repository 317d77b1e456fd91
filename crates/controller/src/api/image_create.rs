//! `CreateImage`, `CopyImage` and `ModifyImageAttribute`.

use super::{Api, disks::instance_in, request};
use crate::{
    disk_state,
    ecs_error::{dry_run, from_store, instance_not_found, invalid, missing, refuse, unsupported},
    ids,
    image_state::{self, AVAILABLE, CREATING},
    instance_state::{RUNNING, STOPPED},
    snapshot_state,
    timestamp::now_ms,
    validation,
};
use api::v1::*;
use prost::Message as _;
use store::{
    DisksLookup, DisksPlan, DisksView, ImageDisk, ImageRecord, Refusal, SnapshotRecord, StoreError,
};

const GIB: u64 = 1 << 30;
/// GiB of the largest disk.
const LARGEST: u64 = 65_536;
/// Disks of an image beside the system disk.
const MOST_DATA_DISKS: usize = 16;

/// What a new image is made from.
#[derive(Debug, Clone)]
enum Source {
    Instance(String),
    Snapshot(String),
    Disks(Vec<DiskDeviceMapping>),
}

impl Source {
    fn of(request: &CreateImageRequest) -> Result<Self, Refusal> {
        let mappings = &request.disk_device_mapping;
        let given = [
            !request.instance_id.is_empty(),
            !request.snapshot_id.is_empty(),
            !mappings.is_empty(),
        ];
        match given {
            [true, false, false] => Ok(Self::Instance(request.instance_id.clone())),
            [false, true, false] => Ok(Self::Snapshot(request.snapshot_id.clone())),
            [false, false, true] => {
                if mappings.len() > MOST_DATA_DISKS + 1 {
                    return Err(invalid(format!(
                        "{} disk_device_mapping are given; an image has at most {} disks",
                        mappings.len(),
                        MOST_DATA_DISKS + 1
                    )));
                }
                Ok(Self::Disks(mappings.clone()))
            }
            [false, false, false] => Err(refuse(
                400,
                "InvalidParameter.AllEmpty",
                "give one of snapshot_id, instance_id and disk_device_mapping",
            )),
            _ => Err(refuse(
                403,
                "InvalidParamter.Conflict",
                "give only one of snapshot_id, instance_id and disk_device_mapping",
            )),
        }
    }

    fn lookup(&self) -> DisksLookup {
        let (mut instance_ids, mut snapshot_ids) = (Vec::new(), Vec::new());
        match self {
            Self::Instance(id) => instance_ids.push(id.clone()),
            Self::Snapshot(id) => snapshot_ids.push(id.clone()),
            Self::Disks(mappings) => {
                let named = mappings.iter().map(|mapping| mapping.snapshot_id.clone());
                snapshot_ids.extend(named.filter(|id| !id.is_empty()));
            }
        }
        DisksLookup { instance_ids, snapshot_ids, images_below: true, ..Default::default() }
    }

    /// The disks of the image, the system disk first, the snapshots that are to be taken for them,
    /// and the image the system disk lies on.
    fn disks(&self, view: &DisksView) -> Result<Disks, Refusal> {
        match self {
            Self::Instance(id) => of_instance(view, id),
            Self::Snapshot(id) => {
                let system = system_snapshot(view, id)?;
                let size_gib = system.disk_size_gib;
                let disks = vec![ImageDisk { snapshot_id: id.clone(), size_gib }];
                Ok(Disks { disks, take: Vec::new(), below: system.image_id.clone() })
            }
            Self::Disks(mappings) => of_mappings(view, mappings),
        }
    }
}

#[derive(Debug)]
struct Disks {
    disks: Vec<ImageDisk>,
    take: Vec<SnapshotRecord>,
    below: String,
}

fn system_snapshot<'a>(
    view: &'a DisksView,
    snapshot_id: &str,
) -> Result<&'a SnapshotRecord, Refusal> {
    let snapshot = snapshot_state::ready(&view.snapshots, snapshot_id)?;
    if !snapshot.disk_system {
        return Err(refuse(
            403,
            "OperationDenied",
            format!(
                "snapshot {snapshot_id} is of a data disk; an image is made from a snapshot of a \
                 system disk"
            ),
        ));
    }
    Ok(snapshot)
}

fn of_instance(view: &DisksView, instance_id: &str) -> Result<Disks, Refusal> {
    let details = instance_in(view, instance_id).ok_or_else(|| instance_not_found(instance_id))?;
    let instance = &details.instance;
    if instance.releasing || ![RUNNING, STOPPED].contains(&instance.status.as_str()) {
        let state = if instance.releasing { "being released" } else { &instance.status };
        return Err(refuse(
            400,
            "IncorrectInstanceStatus",
            format!("instance {instance_id} is {state}; an image needs it Running or Stopped"),
        ));
    }
    let mut all: Vec<_> = details.disks.iter().filter(|disk| !disk.releasing).collect();
    all.sort_by_key(|disk| (!disk.system, disk.position));
    let Some(system) = all.first().filter(|disk| disk.system) else {
        return Err(refuse(
            403,
            "InvalidSystemSnapshot.Missing",
            format!("instance {instance_id} has no system disk to make an image from"),
        ));
    };
    let below = system.image_id.clone();
    let (mut disks, mut take) = (Vec::new(), Vec::new());
    for disk in all {
        let name = format!("Created_from_{instance_id}");
        let snapshot =
            SnapshotRecord { name, ..snapshot_state::take(disk, &view.snapshots, 0, now_ms())? };
        let snapshot_id = snapshot.snapshot_id.clone();
        disks.push(ImageDisk { snapshot_id, size_gib: snapshot.disk_size_gib });
        take.push(snapshot);
    }
    Ok(Disks { disks, take, below })
}

fn of_mappings(view: &DisksView, mappings: &[DiskDeviceMapping]) -> Result<Disks, Refusal> {
    let system_device = disk_state::device(0);
    let mut system = None;
    let mut disks = Vec::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let id = &mapping.snapshot_id;
        let snapshot = match id.as_str() {
            "" => None,
            id => Some(snapshot_state::ready(&view.snapshots, id)?),
        };
        let least = snapshot.map_or(1, |snapshot| snapshot.disk_size_gib);
        let size_gib = match mapping.size {
            0 if snapshot.is_none() => {
                return Err(missing(&format!("disk_device_mapping[{index}].size")));
            }
            0 => least,
            size => size,
        };
        if !(least..=LARGEST).contains(&size_gib) {
            return Err(refuse(
                400,
                "InvalidSize.ValueNotSupported",
                format!(
                    "disk_device_mapping[{index}].size is {size_gib}; it must be {least} to \
                     {LARGEST} GiB"
                ),
            ));
        }
        let disk = ImageDisk { snapshot_id: id.clone(), size_gib };
        let is_system = match mapping.r#type.as_str() {
            "system" => true,
            "data" => false,
            "" if mapping.device.is_empty() => snapshot.is_some_and(|s| s.disk_system),
            "" => mapping.device == system_device,
            other => {
                return Err(refuse(
                    400,
                    "InvalidDiskType.ValueNotSupported",
                    format!(
                        "disk_device_mapping[{index}].type is {other:?}; it must be system or data"
                    ),
                ));
            }
        };
        match (is_system, system) {
            (false, _) => disks.push(disk),
            (true, None) => {
                system = Some(system_snapshot(view, id)?);
                disks.insert(0, disk);
            }
            (true, Some(_)) => {
                return Err(refuse(
                    400,
                    "InvalidDevice.InUse",
                    "two of disk_device_mapping are system disks; an image has one",
                ));
            }
        }
    }
    let system = system.ok_or_else(|| {
        refuse(
            403,
            "InvalidSystemSnapshot.Missing",
            "none of disk_device_mapping is a system disk; give the snapshot of one",
        )
    })?;
    Ok(Disks { disks, take: Vec::new(), below: system.image_id.clone() })
}

/// The parts of a new image that people choose, checked.
fn described(
    name: &str,
    family: &str,
    version: &str,
    description: &str,
    tags: &[Tag],
) -> Result<ImageRecord, Refusal> {
    validation::image_name("InvalidImageName.Malformed", "image name", name)?;
    validation::image_name("InvalidImageFamily.Malformed", "image family", family)?;
    check_version(version)?;
    validation::description("InvalidDescription.Malformed", description)?;
    Ok(ImageRecord {
        name: name.to_owned(),
        family: family.to_owned(),
        version: version.to_owned(),
        description: description.to_owned(),
        tags: validation::tags(tags)?,
        status: CREATING.to_owned(),
        ..Default::default()
    })
}

fn check_version(version: &str) -> Result<(), Refusal> {
    if version.chars().count() <= 40 && !version.chars().any(char::is_control) {
        return Ok(());
    }
    Err(refuse(
        400,
        "InvalidImageVersion.Malformed",
        "image_version must have at most 40 characters, all of them printable",
    ))
}

/// Gives a new image its id and, if it has none, its name.
fn named(template: &ImageRecord) -> ImageRecord {
    let image_id = ids::image();
    let name = if template.name.is_empty() { &image_id } else { &template.name }.clone();
    ImageRecord { image_id, name, created_ms: now_ms(), ..template.clone() }
}

fn name_taken(error: StoreError) -> StoreError {
    match error {
        StoreError::AlreadyExists { what } => StoreError::Refused(refuse(
            400,
            "InvalidImageName.Duplicated",
            format!("{what} already exists; choose another name"),
        )),
        error => error,
    }
}

impl Api {
    pub(super) async fn create_image(
        &self,
        request: CreateImageRequest,
    ) -> Result<CreateImageResponse, Refusal> {
        let token = request::token("CreateImage", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        let source = Source::of(&request)?;
        let template = described(
            &request.image_name,
            &request.image_family,
            &request.image_version,
            &request.description,
            &request.tag,
        )?;
        validation::label("platform", &request.platform)?;
        validation::architecture(&request.architecture)?;
        let lookup = source.lookup();
        let decide = move |view: &DisksView| {
            let Disks { disks, take, below } = source.disks(view)?;
            let below = view.images_below.iter().find(|image| image.image_id == below);
            let inherit =
                |given: &str, own: fn(&ImageRecord) -> &String, default: &str| match (given, below)
                {
                    ("", Some(below)) => own(below).clone(),
                    ("", None) => default.to_owned(),
                    (given, _) => given.to_owned(),
                };
            let system = disks.first().cloned().unwrap_or_default();
            let mut snapshots = take.iter().chain(&view.snapshots);
            let snapshot = snapshots.find(|s| s.snapshot_id == system.snapshot_id);
            let image = ImageRecord {
                architecture: inherit(&request.architecture, |image| &image.architecture, "x86_64"),
                platform: inherit(&request.platform, |image| &image.platform, ""),
                os_type: "linux".to_owned(),
                format: "qcow2".to_owned(),
                virtual_bytes: system.size_gib.saturating_mul(GIB),
                data_key: snapshot.and_then(|snapshot| snapshot.data_key.clone()),
                source_snapshot_id: system.snapshot_id,
                disks,
                ..named(&template)
            };
            if request.dry_run {
                return Err(dry_run());
            }
            let answer =
                CreateImageResponse { image_id: image.image_id.clone(), ..Default::default() };
            Ok(DisksPlan {
                insert_snapshots: take,
                insert_images: vec![image],
                answer: answer.encode_to_vec(),
                ..Default::default()
            })
        };
        let made = self.cloud.store.change_disks(token, lookup, Box::new(decide)).await;
        request::response(made.map_err(name_taken))
    }

    pub(super) async fn copy_image(
        &self,
        request: CopyImageRequest,
    ) -> Result<CopyImageResponse, Refusal> {
        let token = request::token("CopyImage", &request.client_token, &request)?;
        self.cloud.check_region(&request.region_id)?;
        self.cloud.check_region(&request.destination_region_id)?;
        if request.image_id.is_empty() {
            return Err(missing("image_id"));
        }
        let (name, about) = (&request.destination_image_name, &request.destination_description);
        let template = described(name, "", "", about, &request.tag)?;
        let lookup = DisksLookup { image_id: request.image_id.clone(), ..Default::default() };
        let decide = move |view: &DisksView| {
            let source = image_state::existing(view.image.as_ref(), &request.image_id)?;
            if source.status != AVAILABLE {
                return Err(refuse(
                    400,
                    "IncorrectImageStatus",
                    format!("image {} is {}; it must be Available", source.image_id, source.status),
                ));
            }
            if request.encrypted && source.data_key.is_none() {
                return Err(unsupported(
                    "an image that is not encrypted has no encrypted copies; leave encrypted out, \
                     and give it with the system disks of instances",
                ));
            }
            let own = named(&template);
            let image = ImageRecord {
                image_id: own.image_id,
                name: own.name,
                description: own.description,
                family: String::new(),
                status: CREATING.to_owned(),
                created_ms: own.created_ms,
                source_snapshot_id: String::new(),
                source_image_id: source.image_id.clone(),
                tags: own.tags,
                ..source.clone()
            };
            if request.dry_run {
                return Err(dry_run());
            }
            let answer =
                CopyImageResponse { image_id: image.image_id.clone(), ..Default::default() };
            Ok(DisksPlan {
                insert_images: vec![image],
                answer: answer.encode_to_vec(),
                ..Default::default()
            })
        };
        let made = self.cloud.store.change_disks(token, lookup, Box::new(decide)).await;
        request::response(made.map_err(name_taken))
    }

    pub(super) async fn modify_image_attribute(
        &self,
        request: ModifyImageAttributeRequest,
    ) -> Result<ModifyImageAttributeResponse, Refusal> {
        self.cloud.check_region(&request.region_id)?;
        if request.image_id.is_empty() {
            return Err(missing("image_id"));
        }
        if request.image_name.as_deref() == Some("") {
            return Err(missing("image_name"));
        }
        let given = |text: &Option<String>| text.clone().unwrap_or_default();
        described(
            &given(&request.image_name),
            &given(&request.image_family),
            &given(&request.image_version),
            &given(&request.description),
            &[],
        )?;
        let lookup = DisksLookup { image_id: request.image_id.clone(), ..Default::default() };
        let decide = move |view: &DisksView| {
            let old = image_state::existing(view.image.as_ref(), &request.image_id)?.clone();
            let image = ImageRecord {
                name: request.image_name.clone().unwrap_or(old.name),
                family: request.image_family.clone().unwrap_or(old.family),
                version: request.image_version.clone().unwrap_or(old.version),
                description: request.description.clone().unwrap_or(old.description),
                ..old
            };
            if request.dry_run {
                return Err(dry_run());
            }
            Ok(DisksPlan { update_images: vec![image], ..Default::default() })
        };
        let changed = self.cloud.store.change_disks(None, lookup, Box::new(decide)).await;
        changed.map_err(name_taken).map_err(from_store)?;
        Ok(ModifyImageAttributeResponse::default())
    }
}
