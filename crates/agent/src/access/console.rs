//! The first UART: what it printed, then live, and back. Stays through restarts of the guest.

use crate::host::Host;
use api::host::{ConsoleInput, ConsoleOutput};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
};
use tonic::{Status, Streaming};

const HISTORY_BYTES: u64 = 64 << 10;
const CHUNK: usize = 16 << 10;
/// What GetInstanceConsoleOutput shows without a wish.
const DEFAULT_BYTES: u64 = 64 << 10;
const MAX_BYTES: u64 = 16 << 20;
const RECONNECT: Duration = Duration::from_millis(200);

type Output = mpsc::Sender<Result<ConsoleOutput, Status>>;

/// Serves one attached person until they leave or the instance does.
pub async fn attach(
    host: Arc<Host>,
    first: ConsoleInput,
    mut input: Streaming<ConsoleInput>,
    output: Output,
) {
    let id = first.instance_id;
    let socket = host.layout.console_socket(&id);
    let log = host.layout.console_log(&id);
    let mut typed = first.data;
    let mut shown = false;
    while host.board.has(&id) && !output.is_closed() {
        let Ok(mut uart) = UnixStream::connect(&socket).await else {
            if !shown {
                shown = true;
                if !send_history(&log, &output).await {
                    return;
                }
            }
            tokio::select! {
                message = input.message() => match message {
                    // Nobody is there to read it.
                    Ok(Some(_)) => {}
                    _ => return,
                },
                () = tokio::time::sleep(RECONNECT) => {}
            }
            continue;
        };
        // Connected first, so that nothing is lost between the log and what comes live.
        if !shown {
            shown = true;
            if !send_history(&log, &output).await {
                return;
            }
        }
        if !typed.is_empty() && uart.write_all(&std::mem::take(&mut typed)).await.is_err() {
            continue;
        }
        let (mut from_guest, mut to_guest) = uart.split();
        let mut buffer = vec![0; CHUNK];
        loop {
            tokio::select! {
                read = from_guest.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(n) => if !send(&output, buffer[..n].to_vec()).await { return },
                },
                message = input.message() => match message {
                    Ok(Some(message)) => {
                        if to_guest.write_all(&message.data).await.is_err() {
                            break;
                        }
                    }
                    _ => return,
                },
                () = output.closed() => return,
            }
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn send_history(log: &Path, output: &Output) -> bool {
    let log = log.to_owned();
    let read = tokio::task::spawn_blocking(move || read_log(&log, HISTORY_BYTES)).await;
    match read.map_err(io::Error::other).flatten() {
        Ok((data, _)) if data.is_empty() => true,
        Ok((data, _)) => send(output, data).await,
        Err(e) => {
            tracing::warn!("console log: {e}");
            true
        }
    }
}

async fn send(output: &Output, data: Vec<u8>) -> bool {
    output.send(Ok(ConsoleOutput { data })).await.is_ok()
}

/// The last bytes of a console log and its rotated part, and when it last grew.
pub fn read_log(path: &Path, max_bytes: u64) -> io::Result<(Vec<u8>, u64)> {
    let max_bytes = if max_bytes == 0 { DEFAULT_BYTES } else { max_bytes.min(MAX_BYTES) };
    let (mut data, updated) = read_end(path, max_bytes)?;
    let missing = max_bytes.saturating_sub(data.len() as u64);
    if missing > 0 {
        let mut rotated = path.as_os_str().to_owned();
        rotated.push(".1");
        let (mut older, _) = read_end(&PathBuf::from(rotated), missing)?;
        older.append(&mut data);
        data = older;
    }
    Ok((data, updated))
}

fn read_end(path: &Path, max_bytes: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(e) => return Err(e),
    };
    let metadata = file.metadata()?;
    let length = metadata.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max_bytes)))?;
    let mut data = Vec::new();
    file.take(max_bytes).read_to_end(&mut data)?;
    let updated = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((data, u64::try_from(updated.as_millis()).unwrap_or(u64::MAX)))
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
}
