//! The control socket of one VMM: one connection per request, length-delimited protobuf frames.

use crate::error::{Error, Result};
use api::vmm::{GetInfo, Info, PowerButton, Request, Response, Terminate, request::Op, response};
use prost::Message as _;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

/// A VMM that does not answer within this time is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(3);
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

    async fn request(&self, op: Op) -> Result<response::Result> {
        match timeout(PATIENCE, self.exchange(op)).await {
            Ok(result) => result,
            Err(_) => Err(self.error(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    async fn exchange(&self, op: Op) -> Result<response::Result> {
        const ID: u64 = 1;
        let io = |e: std::io::Error| self.error(format!("{}: {e}", self.socket.display()));
        let mut stream = UnixStream::connect(&self.socket).await.map_err(io)?;
        let request = Request { id: ID, op: Some(op) }.encode_length_delimited_to_vec();
        stream.write_all(&request).await.map_err(io)?;
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
