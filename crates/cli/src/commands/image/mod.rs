//! `ecsctl image`.

mod create;
mod export;
mod import;
mod wait;

use super::{Context, pages};
use crate::{
    error::{Error, Result},
    lab,
    output::table::{self, Row},
};
use api::v1::{
    DeleteImageRequest, DescribeImageFromFamilyRequest, DescribeImagesRequest, Image, Tag,
};
use clap::Subcommand;
use create::{CopyArguments, CreateArguments, ModifyArguments};
use export::ExportArguments;
use import::ImportArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Builds images of images/, or finds them built, and says where they are
    #[command(after_help = "Example:\n  ecsctl image build debian-12 tiny")]
    Build {
        #[arg(required = true)]
        images: Vec<String>,
        /// Build even if nothing has changed
        #[arg(long)]
        rebuild: bool,
    },
    #[command(flatten)]
    OfTheCloud(Box<CloudImageCommand>),
}

/// What of images needs a cloud.
#[derive(Debug, Subcommand)]
pub(crate) enum CloudImageCommand {
    /// Uploads a qcow2 or raw image
    #[command(after_help = "Example:\n  \
        ecsctl image import target/images/debian-12/debian-12.qcow2 --name debian-12 --platform Debian")]
    Import(ImportArguments),
    /// Makes an image from a snapshot of a system disk, or from an instance and all of its disks
    #[command(after_help = create::CREATE_EXAMPLES)]
    Create(CreateArguments),
    /// Makes another image of the same content
    #[command(after_help = "Example:\n  ecsctl image copy m-1 --name golden-2 --wait")]
    Copy(CopyArguments),
    /// Downloads an image as a file
    #[command(after_help = "Examples:\n  ecsctl image export m-1 golden.qcow2\n  \
        ecsctl image export m-1 golden.raw --format raw")]
    Export(ExportArguments),
    /// Changes the name, family, version or description of an image
    #[command(after_help = "Examples:\n  ecsctl image modify m-1 --name golden --family web\n  \
        ecsctl image modify m-1 --family ''")]
    Modify(ModifyArguments),
    /// Shows the image that instances of a family are made from: the newest Available one
    #[command(after_help = "Example:\n  ecsctl image family web")]
    Family { family: String },
    /// Lists images
    #[command(
        after_help = "Examples:\n  ecsctl image list --family debian-12\n  ecsctl image list --status CreateFailed -o wide"
    )]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        family: String,
        /// Made from this snapshot, or with data disks from it
        #[arg(long, default_value = "", hide_default_value = true)]
        snapshot: String,
        /// KEY=VALUE, or KEY= for any value; several for more
        #[arg(long = "tag", value_parser = super::tag)]
        tags: Vec<Tag>,
        /// Available, Creating or CreateFailed; left out: all of them
        #[arg(long, default_value = "Available,Creating,CreateFailed", hide_default_value = true)]
        status: String,
    },
    /// Shows all of one image
    #[command(after_help = "Example:\n  ecsctl image show m-1")]
    Show { id: String },
    /// Deletes an image, or stops making it
    #[command(after_help = "Example:\n  ecsctl image delete m-1")]
    Delete {
        id: String,
        /// Also if instances use it; they go on
        #[arg(long)]
        force: bool,
        /// Only check the order
        #[arg(long)]
        dry_run: bool,
    },
}

impl Row for Image {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "STATUS", "PLATFORM", "GIB", "FILE MIB", "CREATED", "FORMAT", "FAMILY",
        "VERSION", "USAGE", "COPY OF", "DISKS", "SHA-256", "REASON",
    ];
    const WIDE: usize = 5;
    fn id(&self) -> String {
        self.image_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.image_id.clone(),
            self.image_name.clone(),
            match self.status.as_str() {
                "Creating" => format!("Creating {}", self.progress),
                status => status.to_owned(),
            },
            self.platform.clone(),
            self.size.to_string(),
            (self.file_bytes >> 20).to_string(),
            self.creation_time.clone(),
            self.format.clone(),
            self.image_family.clone(),
            self.image_version.clone(),
            self.usage.clone(),
            self.source_image_id.clone(),
            self.disk_device_mappings
                .iter()
                .map(|disk| match disk.snapshot_id.as_str() {
                    "" => format!("{} GiB", disk.size),
                    id => format!("{id} {} GiB", disk.size),
                })
                .collect::<Vec<_>>()
                .join(", "),
            self.sha256.clone(),
            self.status_reason.clone(),
        ]
    }
}

/// What of images needs no cloud.
pub(crate) fn build(images: &[String], rebuild: bool) -> Result<()> {
    let folder = lab::build_images(images, rebuild)?;
    for image in images {
        println!("{}", folder.join(image).display());
    }
    Ok(())
}

pub(crate) async fn run(context: &Context, command: CloudImageCommand) -> Result<()> {
    match command {
        CloudImageCommand::Import(arguments) => import::import(context, arguments).await?,
        CloudImageCommand::List { ids, name, family, snapshot, tags, status } => {
            let mut images = Vec::new();
            for status in status.split(',') {
                let request = DescribeImagesRequest {
                    region_id: context.region.clone(),
                    image_id: ids.clone(),
                    image_name: name.clone(),
                    image_family: family.clone(),
                    snapshot_id: snapshot.clone(),
                    tag: tags.clone(),
                    status: status.to_owned(),
                    ..Default::default()
                };
                images.append(&mut describe(context, request).await?);
            }
            images.sort_by(|a, b| b.creation_time.cmp(&a.creation_time));
            table::print(context.format, &images);
        }
        CloudImageCommand::Show { id } => {
            table::print_one(context.format, &find(context, &id).await?)
        }
        CloudImageCommand::Create(arguments) => create::create(context, arguments).await?,
        CloudImageCommand::Copy(arguments) => create::copy(context, arguments).await?,
        CloudImageCommand::Modify(arguments) => create::modify(context, arguments).await?,
        CloudImageCommand::Export(arguments) => export::export(context, arguments).await?,
        CloudImageCommand::Family { family } => {
            let request = DescribeImageFromFamilyRequest {
                region_id: context.region.clone(),
                image_family: family,
            };
            let answer = context.cloud.images().describe_image_from_family(request).await?;
            if let Some(image) = answer.into_inner().image {
                table::print_one(context.format, &image);
            }
        }
        CloudImageCommand::Delete { id, force, dry_run } => {
            let request = DeleteImageRequest {
                region_id: context.region.clone(),
                image_id: id.clone(),
                force,
                dry_run,
            };
            let answer = context.cloud.images().delete_image(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("image {id} deleted"));
        }
    }
    Ok(())
}

async fn describe(context: &Context, request: DescribeImagesRequest) -> Result<Vec<Image>> {
    pages::all(async |page_number| {
        let request =
            DescribeImagesRequest { page_number, page_size: pages::PAGE_SIZE, ..request.clone() };
        let answer = context.cloud.images().describe_images(request).await?.into_inner();
        Ok((answer.images, answer.total_count))
    })
    .await
}

/// An image in whatever state.
async fn find(context: &Context, id: &str) -> Result<Image> {
    for status in ["Available", "Creating", "CreateFailed"] {
        let request = DescribeImagesRequest {
            region_id: context.region.clone(),
            image_id: vec![id.to_owned()],
            status: status.to_owned(),
            ..Default::default()
        };
        if let Some(image) = describe(context, request).await?.into_iter().next() {
            return Ok(image);
        }
    }
    Err(Error::NotFound(format!("there is no image {id}; `ecsctl image list` shows all")))
}
