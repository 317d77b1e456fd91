//! The other end of the control socket, for people's commands and for tests.

use super::{
    files,
    frame::{Decoder, FrameError, encode},
};
use api::vmm::{
    AttachDisk, Disk, DiskLayer, Event, Request, Response, SwitchLayers, file_ref::Source,
    request::Op, response::Result as Answer,
};
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::{fd::RawFd, unix::net::UnixStream},
    path::Path,
};

/// Why a request got no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket.
    #[error("control socket: {0}; is the machine running?")]
    Io(#[from] io::Error),
    /// A file to send along.
    #[error("{path}: {error}")]
    File {
        /// Its path.
        path: String,
        /// Why it cannot be opened.
        error: io::Error,
    },
    /// What came is not what the protocol says.
    #[error("control socket: {0}")]
    Frame(#[from] FrameError),
    /// The machine's refusal.
    #[error("{code}: {message}")]
    Refused {
        /// Code of the refusal.
        code: String,
        /// What is wrong.
        message: String,
    },
}

/// A connection to a machine.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    events: VecDeque<Event>,
    next_id: u64,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Io`] if nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Ok(Self {
            stream: UnixStream::connect(path)?,
            decoder: Decoder::default(),
            events: VecDeque::new(),
            next_id: 1,
        })
    }

    /// Asks for `op` and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`], also if the machine refuses.
    pub fn call(&mut self, op: Op) -> Result<Answer, ClientError> {
        self.call_with(op, &[])
    }

    /// Like [`Self::call`], with descriptors the request names by their positions in `files`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_with(&mut self, op: Op, files: &[RawFd]) -> Result<Answer, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        files::send(&mut self.stream, &encode(&Request { id, op: Some(op) }), files)?;
        loop {
            let response = self.receive()?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            match response.result {
                Some(Answer::Event(event)) => self.events.push_back(event),
                Some(Answer::Error(error)) if response.id == id || response.id == 0 => {
                    return Err(ClientError::Refused { code: error.code, message: error.message });
                }
                Some(answer) if response.id == id => return Ok(answer),
                _ => {}
            }
        }
    }

    /// Waits for the next event after a subscription; `None` when the machine has ended.
    ///
    /// # Errors
    /// [`ClientError`] if the stream breaks.
    pub fn next_event(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.receive()? {
                Some(Response { result: Some(Answer::Event(event)), .. }) => {
                    self.events.push_back(event);
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Attaches a disk whose layers name paths: the files are opened here and sent along.
    ///
    /// # Errors
    /// As [`Self::call`], and if a file cannot be opened.
    pub fn attach(&mut self, mut disk: Disk) -> Result<Answer, ClientError> {
        let mut files = Vec::new();
        for (index, layer) in disk.layers.iter_mut().enumerate() {
            send_along(layer, index == 0 && !disk.read_only, &mut files)?;
        }
        self.call_with(Op::AttachDisk(AttachDisk { disk: Some(disk) }), &descriptors(&files))
    }

    /// Puts a disk on layers that name paths, as [`Self::attach`] does.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn switch_layers(&mut self, mut request: SwitchLayers) -> Result<Answer, ClientError> {
        let mut files = Vec::new();
        if let Some(layer) = &mut request.top {
            send_along(layer, true, &mut files)?;
        }
        for layer in &mut request.backing {
            send_along(layer, false, &mut files)?;
        }
        self.call_with(Op::SwitchLayers(request), &descriptors(&files))
    }

    fn receive(&mut self) -> Result<Option<Response>, ClientError> {
        loop {
            if let Some(response) = self.decoder.next_message()? {
                return Ok(Some(response));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(len) => self.decoder.push(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Opens a layer that names a path, and names it by its place in `files` instead.
fn send_along(
    layer: &mut DiskLayer,
    write: bool,
    files: &mut Vec<File>,
) -> Result<(), ClientError> {
    let source = layer.file.as_mut().and_then(|file| file.source.as_mut());
    if let Some(source) = source
        && let Source::Path(path) = source
    {
        let opened = OpenOptions::new().read(true).write(write).open(&*path);
        let file = opened.map_err(|error| ClientError::File { path: path.clone(), error })?;
        *source = Source::Fd(files.len() as i32);
        files.push(file);
    }
    Ok(())
}

fn descriptors(files: &[File]) -> Vec<RawFd> {
    files.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect()
}
