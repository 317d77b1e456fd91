//! `ecsctl image`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::{Error, Result},
    lab,
    output::{
        progress::Progress,
        table::{self, Row},
    },
};
use api::v1::{
    DeleteImageRequest, DescribeImagesRequest, Image, ImportImageHeader, ImportImageRequest,
    import_image_request::Part,
};
use clap::{Args, Subcommand};
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

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
    OfTheCloud(CloudImageCommand),
}

/// What of images needs a cloud.
#[derive(Debug, Subcommand)]
pub(crate) enum CloudImageCommand {
    /// Uploads a qcow2 or raw image
    #[command(after_help = "Example:\n  \
        ecsctl image import target/images/debian-12/debian-12.qcow2 --name debian-12 --platform Debian")]
    Import(ImportArguments),
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
        /// Available, Creating or CreateFailed; left out: all of them
        #[arg(long, default_value = "Available,Creating,CreateFailed", hide_default_value = true)]
        status: String,
    },
    /// Shows all of one image
    #[command(after_help = "Example:\n  ecsctl image show m-1")]
    Show { id: String },
    /// Deletes an image
    #[command(after_help = "Example:\n  ecsctl image delete m-1")]
    Delete {
        id: String,
        /// Also if instances use it
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    file: PathBuf,
    /// Default: the file's name
    #[arg(long)]
    name: Option<String>,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Debian, Ubuntu, ...
    #[arg(long, default_value = "", hide_default_value = true)]
    platform: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    family: String,
    /// qcow2 or raw; default: by content
    #[arg(long = "format", default_value = "", hide_default_value = true)]
    image_format: String,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    /// Come back before the image is Available
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait until the image is Available
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

impl Row for Image {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "STATUS", "PLATFORM", "GIB", "FILE MIB", "CREATED", "FORMAT", "FAMILY",
        "USAGE", "SHA-256", "REASON",
    ];
    const WIDE: usize = 5;
    fn id(&self) -> String {
        self.image_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.image_id.clone(),
            self.image_name.clone(),
            self.status.clone(),
            self.platform.clone(),
            self.size.to_string(),
            (self.file_bytes >> 20).to_string(),
            self.creation_time.clone(),
            self.format.clone(),
            self.image_family.clone(),
            self.usage.clone(),
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
        CloudImageCommand::Import(arguments) => import(context, arguments).await?,
        CloudImageCommand::List { ids, name, family, status } => {
            let mut images = Vec::new();
            for status in status.split(',') {
                let request = DescribeImagesRequest {
                    region_id: context.region.clone(),
                    image_id: ids.clone(),
                    image_name: name.clone(),
                    image_family: family.clone(),
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
        CloudImageCommand::Delete { id, force } => {
            let request = DeleteImageRequest {
                region_id: context.region.clone(),
                image_id: id.clone(),
                force,
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

/// One message of the upload; the most the call takes.
const CHUNK: usize = 1 << 20;

async fn import(context: &Context, arguments: ImportArguments) -> Result<()> {
    let path = &arguments.file;
    let (mut file, bytes, sha256) = open(path)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => {
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
        }
    };
    let header = ImportImageHeader {
        region_id: context.region.clone(),
        image_name: name.clone(),
        description: arguments.description,
        architecture: "x86_64".to_owned(),
        os_type: "linux".to_owned(),
        platform: arguments.platform,
        format: arguments.image_format,
        client_token: client_token(arguments.client_token),
        file_bytes: bytes,
        sha256,
        image_family: arguments.family,
    };
    let progress = Progress::transfer(&format!("uploading {name}"), bytes);
    let (sender, receiver) = mpsc::channel(4);
    let reader_path = path.clone();
    let reader = async {
        let part = |part| ImportImageRequest { part: Some(part) };
        // A closed channel means the call has ended; its own answer says why.
        if sender.send(part(Part::Header(header))).await.is_err() {
            return Ok(());
        }
        loop {
            let mut data = vec![0; CHUNK];
            let length = file.read(&mut data).map_err(Error::file("read", &reader_path))?;
            data.truncate(length);
            if length == 0 || sender.send(part(Part::Data(data))).await.is_err() {
                break;
            }
            progress.advance(length as u64);
        }
        drop(sender);
        Ok::<_, Error>(())
    };
    let mut service = context.cloud.images();
    let call = service.import_image(ReceiverStream::new(receiver));
    let (read, answer) = futures::join!(reader, call);
    progress.done(if answer.is_ok() { "uploaded" } else { "refused" });
    let answer = answer?.into_inner();
    read?;
    let id = answer.image_id.clone();
    if !arguments.no_wait {
        wait_available(context, &id, arguments.timeout).await?;
    }
    context.done(&answer, std::slice::from_ref(&id), &format!("image {id} imported"));
    Ok(())
}

fn open(path: &Path) -> Result<(File, u64, String)> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let bytes = file.metadata().map_err(Error::file("read", path))?.len();
    let progress = Progress::transfer("checking", bytes);
    let mut digest = Sha256::new();
    let mut data = vec![0; CHUNK];
    loop {
        let length = file.read(&mut data).map_err(Error::file("read", path))?;
        if length == 0 {
            break;
        }
        digest.update(&data[..length]);
        progress.advance(length as u64);
    }
    file.seek(SeekFrom::Start(0)).map_err(Error::file("read", path))?;
    let text = digest.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    progress.done(&format!("SHA-256 {text}"));
    Ok((file, bytes, text))
}

async fn wait_available(context: &Context, id: &str, timeout: u64) -> Result<()> {
    let progress = Progress::start(&format!("image {id}"), Duration::from_secs(timeout));
    loop {
        let image = find(context, id).await?;
        match image.status.as_str() {
            "Available" => {
                progress.done("Available");
                return Ok(());
            }
            "CreateFailed" => {
                progress.done("CreateFailed");
                return Err(Error::Failed(format!(
                    "image {id} was refused: {}",
                    image.status_reason
                )));
            }
            other => progress.set(other),
        }
        if progress.is_late() {
            progress.done(&image.status);
            return Err(Error::TimedOut(format!(
                "image {id} is still {} after {timeout} s",
                image.status
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
