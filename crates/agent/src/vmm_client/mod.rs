//! The control socket of one VMM: one connection per request, length-delimited protobuf frames.

mod descriptors;

use crate::{
    disks::{OpenChain, OpenLayer, in_pipe},
    error::{Error, Result},
};
use api::vmm::{
    AttachDisk, AttachNic, DetachDisk, DetachNic, Disk, DiskLayer, DiskLimit, FileRef, GetInfo,
    GetStats, Info, Nic, PowerButton, Request, ResizeDisk, Response, SetDiskLimit, Stats,
    SwitchLayers, SwitchTaps, Terminate, file_ref::Source, request::Op, response,
};
use prost::Message as _;
use qcow2::Passphrase;
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::UnixStream, time::timeout};

/// A VMM that does not answer within this time is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests that wait for a disk: its requests under way, or its metadata on the medium.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// Frames of the control protocol are small; a larger one is not from a sane VMM.
const FRAME_LIMIT: u64 = 1 << 20;

/// Speaks to one instance's VMM.
#[derive(Debug, Clone)]
pub struct VmmClient {
    instance_id: String,
    socket: PathBuf,
}

impl VmmClient {
    /// Over the given control socket; connects with each request.
    pub fn new(instance_id: &str, socket: &Path) -> Self {
        Self { instance_id: instance_id.to_owned(), socket: socket.to_owned() }
    }

    /// What the VMM runs and how far it is.
    ///
    /// # Errors
    /// When it does not answer, or answers for another instance.
    pub async fn info(&self) -> Result<Info> {
        match self.request(Op::GetInfo(GetInfo {})).await? {
            response::Result::Info(info) if info.instance_id == self.instance_id => Ok(info),
            response::Result::Info(info) => {
                Err(self.error(format!("answers as {}", info.instance_id)))
            }
            other => Err(self.error(format!("answered GetInfo with {other:?}"))),
        }
    }

    /// Presses the ACPI power button.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn power_button(&self) -> Result<()> {
        self.request(Op::PowerButton(PowerButton {})).await.map(drop)
    }

    /// Tells the VMM to flush the disks and end.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn terminate(&self) -> Result<()> {
        self.request(Op::Terminate(Terminate {})).await.map(drop)
    }

    /// What the guest's devices have done.
    ///
    /// # Errors
    /// When the VMM does not answer.
    pub async fn stats(&self) -> Result<Stats> {
        match self.request(Op::GetStats(GetStats {})).await? {
            response::Result::Stats(stats) => Ok(stats),
            other => Err(self.error(format!("answered GetStats with {other:?}"))),
        }
    }

    /// Plugs a disk in; its layers are those given.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn attach_disk(&self, disk: Disk, chain: OpenChain) -> Result<()> {
        let (layers, mut files) = numbered(chain.layers);
        let key = self.pass_key(chain.key.as_ref(), &mut files)?;
        let op = Op::AttachDisk(AttachDisk { disk: Some(Disk { layers, key, ..disk }) });
        self.request_with(op, &files, DISK_PATIENCE).await.map(drop)
    }

    /// Puts a disk on other layers; `top` none: the one that is written stays. Answers for how many
    /// nanoseconds the guest's requests waited.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses; the disk is then still on the layers it had.
    pub async fn switch_layers(
        &self,
        disk_id: &str,
        top: Option<OpenLayer>,
        backing: OpenChain,
    ) -> Result<u64> {
        let has_top = top.is_some();
        let (mut layers, mut files) = numbered(top.into_iter().chain(backing.layers).collect());
        let key = self.pass_key(backing.key.as_ref(), &mut files)?;
        let op = Op::SwitchLayers(SwitchLayers {
            disk_id: disk_id.to_owned(),
            chain_epoch: backing.chain_epoch,
            top: has_top.then(|| layers.remove(0)),
            backing: layers,
            key,
        });
        match self.request_with(op, &files, DISK_PATIENCE).await? {
            response::Result::LayersSwitched(done) => Ok(done.paused_ns),
            other => Err(self.error(format!("answered SwitchLayers with {other:?}"))),
        }
    }

    /// The key of encrypted layers goes behind their files, if there is one.
    fn pass_key(&self, key: Option<&Passphrase>, files: &mut Vec<File>) -> Result<Option<FileRef>> {
        let Some(key) = key else { return Ok(None) };
        let pipe = in_pipe(key).map_err(|e| self.error(format!("gets no key: {e}")))?;
        let position = i32::try_from(files.len()).unwrap_or(i32::MAX);
        files.push(pipe);
        Ok(Some(FileRef { source: Some(Source::Fd(position)) }))
    }

    /// Asks the guest to let a disk go.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn detach_disk(&self, disk_id: &str) -> Result<()> {
        let request = DetachDisk { disk_id: disk_id.to_owned(), force: false };
        self.request_with(Op::DetachDisk(request), &[], DISK_PATIENCE).await.map(drop)
    }

    /// Plugs a network interface in.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn attach_nic(
        &self,
        nic: Nic,
        taps: Vec<OwnedFd>,
        vhost: Vec<OwnedFd>,
    ) -> Result<()> {
        let mut positions = 0i32..;
        let tap_fds = positions.by_ref().take(taps.len()).collect();
        let vhost_fds = positions.take(vhost.len()).collect();
        let op = Op::AttachNic(AttachNic { nic: Some(Nic { tap_fds, vhost_fds, ..nic }) });
        let files: Vec<File> = taps.into_iter().chain(vhost).map(File::from).collect();
        self.request_with(op, &files, DISK_PATIENCE).await.map(drop)
    }

    /// Asks the guest to let a network interface go.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn detach_nic(&self, eni_id: &str) -> Result<()> {
        let request = DetachNic { eni_id: eni_id.to_owned(), force: false };
        self.request_with(Op::DetachNic(request), &[], DISK_PATIENCE).await.map(drop)
    }

    /// Lets a network interface go on with other taps.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn switch_taps(
        &self,
        eni_id: &str,
        tap_epoch: u64,
        taps: Vec<OwnedFd>,
    ) -> Result<()> {
        let tap_fds = (0i32..).take(taps.len()).collect();
        let op = Op::SwitchTaps(SwitchTaps { eni_id: eni_id.to_owned(), tap_epoch, tap_fds });
        let files: Vec<File> = taps.into_iter().map(File::from).collect();
        self.request_with(op, &files, DISK_PATIENCE).await.map(drop)
    }

    /// Grows a disk.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn resize_disk(&self, disk_id: &str, size_bytes: u64) -> Result<()> {
        let request = ResizeDisk { disk_id: disk_id.to_owned(), size_bytes };
        self.request_with(Op::ResizeDisk(request), &[], DISK_PATIENCE).await.map(drop)
    }

    /// Gives a disk other rates; none: it is not limited.
    ///
    /// # Errors
    /// When the VMM does not answer or refuses.
    pub async fn set_disk_limit(&self, disk_id: &str, limit: Option<DiskLimit>) -> Result<()> {
        let request = SetDiskLimit { disk_id: disk_id.to_owned(), limit };
        self.request(Op::SetDiskLimit(request)).await.map(drop)
    }

    async fn request(&self, op: Op) -> Result<response::Result> {
        self.request_with(op, &[], PATIENCE).await
    }

    async fn request_with(
        &self,
        op: Op,
        files: &[File],
        patience: Duration,
    ) -> Result<response::Result> {
        match timeout(patience, self.exchange(op, files)).await {
            Ok(result) => result,
            Err(_) => Err(self.error(format!("no answer within {} s", patience.as_secs()))),
        }
    }

    async fn exchange(&self, op: Op, files: &[File]) -> Result<response::Result> {
        const ID: u64 = 1;
        let io = |e: std::io::Error| self.error(format!("{}: {e}", self.socket.display()));
        let mut stream = UnixStream::connect(&self.socket).await.map_err(io)?;
        let request = Request { id: ID, op: Some(op) }.encode_length_delimited_to_vec();
        descriptors::send(&mut stream, &request, files).await.map_err(io)?;
        loop {
            let response = self.read_frame(&mut stream).await?;
            if response.id != ID {
                continue;
            }
            return match response.result {
                Some(response::Result::Error(e)) => {
                    Err(self.error(format!("{}: {}", e.code, e.message)))
                }
                Some(result) => Ok(result),
                None => Err(self.error("sent an empty answer".into())),
            };
        }
    }

    async fn read_frame(&self, stream: &mut UnixStream) -> Result<Response> {
        let io = |e: std::io::Error| self.error(format!("{}: {e}", self.socket.display()));
        let mut length = 0u64;
        for shift in (0..).step_by(7) {
            let byte = stream.read_u8().await.map_err(io)?;
            length |= u64::from(byte & 0x7f) << shift;
            if length > FRAME_LIMIT || shift > 21 {
                return Err(self.error("sent a frame beyond 1 MiB".into()));
            }
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut frame = vec![0; usize::try_from(length).unwrap_or(0)];
        stream.read_exact(&mut frame).await.map_err(io)?;
        Response::decode(frame.as_slice())
            .map_err(|e| self.error(format!("sent a frame that cannot be read: {e}")))
    }

    fn error(&self, detail: String) -> Error {
        Error::Vmm { instance_id: self.instance_id.clone(), detail }
    }
}

/// Layers as a request names them: by the position of the file that is sent along.
fn numbered(layers: Vec<OpenLayer>) -> (Vec<DiskLayer>, Vec<File>) {
    let named = (0i32..).zip(&layers).map(|(position, layer)| DiskLayer {
        file: Some(FileRef { source: Some(Source::Fd(position)) }),
        format: layer.format.into(),
    });
    (named.collect(), layers.into_iter().map(|layer| layer.file).collect())
}
