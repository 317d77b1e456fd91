//! `ecsctl image export`.

use super::Context;
use crate::{
    error::{Error, Result},
    output::progress::Progress,
};
use api::v1::{
    ExportImageEnd, ExportImageHeader, ExportImageRequest, ExportImageResponse,
    export_image_response::Part,
};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};
use tonic::Streaming;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FileFormat {
    Qcow2,
    Raw,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    image: String,
    /// File to write; it has this name only when all of it is there
    file: PathBuf,
    /// Default: the image's own
    #[arg(long = "format", value_enum)]
    file_format: Option<FileFormat>,
    /// Replace the file if it is there
    #[arg(long)]
    overwrite: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Exported {
    request_id: String,
    image_id: String,
    format: String,
    file_bytes: u64,
    sha256: String,
}

/// A file under another name until it is whole; removed if it does not become so.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(name);
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        Ok(Self { path, file, kept: false })
    }

    fn keep(mut self, target: &Path) -> Result<()> {
        self.file.sync_all().map_err(Error::file("write", &self.path))?;
        fs::rename(&self.path, target).map_err(Error::file("rename to", target))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed has a name that says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) async fn export(context: &Context, arguments: ExportArguments) -> Result<()> {
    let path = &arguments.file;
    if path.exists() && !arguments.overwrite {
        return Err(Error::Local(format!(
            "{} is there already; give another name, or --overwrite",
            path.display()
        )));
    }
    let request = ExportImageRequest {
        region_id: context.region.clone(),
        image_id: arguments.image.clone(),
        image_format: match arguments.file_format {
            Some(FileFormat::Qcow2) => "qcow2".to_owned(),
            Some(FileFormat::Raw) => "raw".to_owned(),
            None => String::new(),
        },
        dry_run: false,
    };
    let mut parts = context.cloud.images().export_image(request).await?.into_inner();
    let file = Partial::create(path)?;
    let progress = Progress::percent(&format!("downloading {}", arguments.image));
    let received = receive(&mut parts, &file, &progress).await;
    progress.done(if received.is_ok() { "downloaded" } else { "broken off" });
    let (header, end) = received?;
    file.keep(path)?;
    let id = header.image_id.clone();
    let sentence = format!(
        "image {id} exported as {} to {}, {} MiB",
        header.format,
        path.display(),
        end.file_bytes.div_ceil(1 << 20)
    );
    let exported = Exported {
        request_id: header.request_id,
        image_id: header.image_id,
        format: header.format,
        file_bytes: end.file_bytes,
        sha256: end.sha256,
    };
    context.done(&exported, std::slice::from_ref(&id), &sentence);
    Ok(())
}

/// Writes what comes, and checks that it is all.
async fn receive(
    parts: &mut Streaming<ExportImageResponse>,
    file: &Partial,
    progress: &Progress,
) -> Result<(ExportImageHeader, ExportImageEnd)> {
    let mut header = None;
    let mut digest = Sha256::new();
    while let Some(part) = parts.message().await? {
        match part.part {
            Some(Part::Header(first)) => header = Some(first),
            Some(Part::Piece(piece)) => {
                digest.update(&piece.data);
                let written = file.file.write_all_at(&piece.data, piece.offset);
                written.map_err(Error::file("write", &file.path))?;
                progress.position(u64::from(piece.percent));
            }
            Some(Part::End(end)) => {
                let sha256: String =
                    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                let length = file.file.metadata().map_err(Error::file("read", &file.path))?.len();
                let expected = header.as_ref().map_or(0, |header| header.file_bytes);
                if sha256 != end.sha256
                    || length > end.file_bytes
                    || (expected > 0 && expected != end.file_bytes)
                {
                    return Err(Error::Failed(format!(
                        "what came is not what was sent: SHA-256 {sha256} of {length} bytes, not {} \
                         of {}; export it again",
                        end.sha256, end.file_bytes
                    )));
                }
                // A disk may end in zeroes, which are not sent.
                let sized = file.file.set_len(end.file_bytes);
                sized.map_err(Error::file("write", &file.path))?;
                let header = header.unwrap_or_default();
                return Ok((header, end));
            }
            None => {}
        }
    }
    Err(Error::Failed("the download broke off before its end; export it again".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("golden.qcow2");
        let count = || fs::read_dir(folder.path()).unwrap().count();
        let partial = Partial::create(&target).unwrap();
        assert!(!target.exists() && count() == 1);
        drop(partial);
        assert_eq!(count(), 0);
        let partial = Partial::create(&target).unwrap();
        partial.file.write_all_at(b"all", 0).unwrap();
        partial.keep(&target).unwrap();
        assert_eq!((fs::read(&target).unwrap().as_slice(), count()), (b"all".as_slice(), 1));
    }
}
