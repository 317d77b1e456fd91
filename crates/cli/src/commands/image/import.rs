//! `ecsctl image import`.

use super::{Context, wait};
use crate::{
    client::client_token,
    error::{Error, Result},
    output::progress::Progress,
};
use api::v1::{ImportImageHeader, ImportImageRequest, import_image_request::Part};
use clap::Args;
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

/// One message of the upload; the most the call takes.
const CHUNK: usize = 1 << 20;

pub(super) async fn import(context: &Context, arguments: ImportArguments) -> Result<()> {
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
        wait::until_available(context, &id, Duration::from_secs(arguments.timeout)).await?;
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
