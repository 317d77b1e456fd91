//! The first UART: what it printed, then live, and back. Stays through restarts of the guest.
//!
//! What the guest prints is read from the console log, which has every byte from the VMM's first on
//! and which any number of people may read. The VMM's console socket serves one client and lets it
//! go for the next, so it is used to type only, by one connection that all who are attached share.

use crate::host::Host;
use api::host::{ConsoleInput, ConsoleOutput};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, UNIX_EPOCH},
};
use tokio::{io::AsyncWriteExt as _, net::UnixStream, sync::mpsc};
use tonic::{Status, Streaming};

const HISTORY_BYTES: u64 = 64 << 10;
const CHUNK: u64 = 16 << 10;
/// What GetInstanceConsoleOutput shows without a wish.
const DEFAULT_BYTES: u64 = 64 << 10;
const MAX_BYTES: u64 = 16 << 20;
/// How often a log that does not grow is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

type Output = mpsc::Sender<Result<ConsoleOutput, Status>>;

/// The connections to type on, one per instance for as long as anyone is attached to it.
#[derive(Debug, Default)]
pub struct Keyboards {
    by_instance: Mutex<HashMap<String, Weak<Keyboard>>>,
}

impl Keyboards {
    fn of(&self, instance_id: &str, socket: PathBuf) -> Arc<Keyboard> {
        let mut all = self.by_instance.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, keyboard| keyboard.strong_count() > 0);
        if let Some(keyboard) = all.get(instance_id).and_then(Weak::upgrade) {
            return keyboard;
        }
        let keyboard = Arc::new(Keyboard { socket, connection: tokio::sync::Mutex::default() });
        all.insert(instance_id.to_owned(), Arc::downgrade(&keyboard));
        keyboard
    }
}

#[derive(Debug)]
struct Keyboard {
    socket: PathBuf,
    connection: tokio::sync::Mutex<Option<UnixStream>>,
}

impl Keyboard {
    /// Types to the guest; while there is none, nobody is there to read it. Waits for a guest that
    /// is slow to read.
    async fn type_in(&self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let mut connection = self.connection.lock().await;
        if connection.as_ref().is_none_or(|connection| !is_open(connection)) {
            *connection = UnixStream::connect(&self.socket).await.ok();
        }
        if let Some(open) = &mut *connection
            && open.write_all(data).await.is_err()
        {
            *connection = None;
        }
    }
}

/// Throws away what the VMM sent, which is in the log too, and tells whether it still listens.
fn is_open(connection: &UnixStream) -> bool {
    let mut unread = [0; 4096];
    loop {
        match connection.try_read(&mut unread) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Serves one attached person until they leave or the instance does.
pub async fn attach(
    host: Arc<Host>,
    keyboards: Arc<Keyboards>,
    first: ConsoleInput,
    mut input: Streaming<ConsoleInput>,
    output: Output,
) {
    let id = first.instance_id;
    let keyboard = keyboards.of(&id, host.layout.console_socket(&id));
    let typing = async {
        keyboard.type_in(&first.data).await;
        while let Ok(Some(message)) = input.message().await {
            keyboard.type_in(&message.data).await;
        }
    };
    tokio::select! {
        () = show(&host, &id, &output) => {}
        () = typing => {}
        () = output.closed() => {}
    }
}

async fn show(host: &Host, id: &str, output: &Output) {
    let mut tail = Tail::new(host.layout.console_log(id));
    while host.knows_instance(id) {
        let read = tokio::task::spawn_blocking(move || {
            let read = tail.next();
            (tail, read)
        });
        let Ok((again, read)) = read.await else { return };
        tail = again;
        match read {
            Ok(data) if data.is_empty() => tokio::time::sleep(LOOK_AGAIN).await,
            Ok(data) => {
                if output.send(Ok(ConsoleOutput { data })).await.is_err() {
                    return;
                }
            }
            Err(e) => {
                let message = format!("console log of {id}: {e}");
                let status = super::error(tonic::Code::Internal, "InternalError", message);
                // Nobody is left to hear it then.
                let _ = output.send(Err(status)).await;
                return;
            }
        }
    }
}

/// Reads a console log as it grows, from a little before its end.
#[derive(Debug)]
struct Tail {
    log: PathBuf,
    at: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Up to here of the log has been read.
    Log(u64),
    /// The log was emptied into its rotated part; up to here of that has been read.
    Rotated(u64),
}

impl Tail {
    fn new(log: PathBuf) -> Self {
        Self { log, at: None }
    }

    /// What comes next; empty if there is nothing yet.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.at {
                None => {
                    let end = read_end(&self.log, HISTORY_BYTES)?;
                    self.at = Some(Place::Log(end.length));
                    return with_rotated(&self.log, end.data, HISTORY_BYTES);
                }
                Some(Place::Log(offset)) => {
                    let (data, length) = read_at(&self.log, offset)?;
                    if length < offset {
                        self.at = Some(Place::Rotated(offset));
                        continue;
                    }
                    self.at = Some(Place::Log(offset + data.len() as u64));
                    return Ok(data);
                }
                Some(Place::Rotated(offset)) => {
                    let (data, _) = read_at(&rotated(&self.log), offset)?;
                    if data.is_empty() {
                        self.at = Some(Place::Log(0));
                        continue;
                    }
                    self.at = Some(Place::Rotated(offset + data.len() as u64));
                    return Ok(data);
                }
            }
        }
    }
}

/// Some bytes of a file from an offset on, and its length; none of a file that is not there.
fn read_at(path: &Path, offset: u64) -> io::Result<(Vec<u8>, u64)> {
    let Some(mut file) = open(path)? else { return Ok((Vec::new(), 0)) };
    let length = file.metadata()?.len();
    let mut data = Vec::new();
    if offset < length {
        file.seek(SeekFrom::Start(offset))?;
        file.take(CHUNK).read_to_end(&mut data)?;
    }
    Ok((data, length))
}

/// The last bytes of a console log and its rotated part, and when it last grew.
pub fn read_log(path: &Path, max_bytes: u64) -> io::Result<(Vec<u8>, u64)> {
    let max_bytes = if max_bytes == 0 { DEFAULT_BYTES } else { max_bytes.min(MAX_BYTES) };
    let end = read_end(path, max_bytes)?;
    Ok((with_rotated(path, end.data, max_bytes)?, end.updated_ms))
}

/// Puts the end of the rotated part before the log's bytes if they are fewer than wanted.
fn with_rotated(log: &Path, mut data: Vec<u8>, wanted: u64) -> io::Result<Vec<u8>> {
    let missing = wanted.saturating_sub(data.len() as u64);
    if missing == 0 {
        return Ok(data);
    }
    let mut older = read_end(&rotated(log), missing)?.data;
    older.append(&mut data);
    Ok(older)
}

fn rotated(log: &Path) -> PathBuf {
    let mut path = log.as_os_str().to_owned();
    path.push(".1");
    path.into()
}

#[derive(Debug, Default)]
struct End {
    data: Vec<u8>,
    /// Offset of the end of `data`.
    length: u64,
    updated_ms: u64,
}

fn read_end(path: &Path, max_bytes: u64) -> io::Result<End> {
    let Some(mut file) = open(path)? else { return Ok(End::default()) };
    let metadata = file.metadata()?;
    let start = metadata.len().saturating_sub(max_bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut data = Vec::new();
    file.take(max_bytes).read_to_end(&mut data)?;
    let updated = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let updated_ms = u64::try_from(updated.as_millis()).unwrap_or(u64::MAX);
    Ok(End { length: start + data.len() as u64, data, updated_ms })
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_end_of_the_log_reaches_back_into_the_rotated_part() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        assert_eq!(read_log(&log, 10).unwrap(), (Vec::new(), 0));
        fs::write(&log, "efgh").unwrap();
        fs::write(dir.path().join("console.log.1"), "abcd").unwrap();
        assert_eq!(read_log(&log, 3).unwrap().0, b"fgh");
        assert_eq!(read_log(&log, 6).unwrap().0, b"cdefgh");
        let (all, updated) = read_log(&log, 0).unwrap();
        assert_eq!(all, b"abcdefgh");
        assert!(updated > 0);
    }

    #[test]
    fn a_tail_misses_nothing_of_a_log_that_is_made_late_grows_and_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        let mut tail = Tail::new(log.clone());
        assert_eq!(tail.next().unwrap(), b"");
        fs::write(&log, "first").unwrap();
        assert_eq!(tail.next().unwrap(), b"first");
        assert_eq!(tail.next().unwrap(), b"");
        fs::write(rotated(&log), "first, second").unwrap();
        fs::write(&log, "3rd").unwrap();
        assert_eq!(tail.next().unwrap(), b", second");
        assert_eq!(tail.next().unwrap(), b"3rd");
        fs::remove_file(&log).unwrap();
        fs::remove_file(rotated(&log)).unwrap();
        assert_eq!(tail.next().unwrap(), b"");
    }
}
