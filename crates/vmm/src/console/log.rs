//! The console's log file and its rotation.
//!
//! Both files stay open all the time: inside its jail the process can name neither.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// Size of the log when the configuration names none, in bytes.
const DEFAULT_LIMIT: u64 = 16 << 20;
const COPY_CHUNK: usize = 64 << 10;

/// An appended file of bounded size. What no longer fits moves to the file before it.
#[derive(Debug)]
pub struct ConsoleLog {
    file: File,
    previous: Option<File>,
    size: u64,
    limit: u64,
}

impl ConsoleLog {
    /// Opens `path` to append, and `path` with `.1` at its end for what is rotated out.
    ///
    /// # Errors
    /// If a file cannot be opened.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut previous = path.as_os_str().to_owned();
        previous.push(".1");
        Self::new(open(path)?, Some(open(Path::new(&previous))?), limit)
    }

    /// Appends to a file that is already open. There is no file for what is rotated out: the older
    /// half is dropped.
    ///
    /// # Errors
    /// If the file cannot be measured.
    pub fn from_file(file: File, limit: u64) -> io::Result<Self> {
        Self::new(file, None, limit)
    }

    fn new(file: File, previous: Option<File>, limit: u64) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit };
        Ok(Self { file, previous, size, limit })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// If they cannot be written. Bytes written so far stay.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.size >= self.limit {
                self.rotate()?;
            }
            let room = usize::try_from(self.limit - self.size).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.file.write_all(now)?;
            self.size += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let kept = if let Some(previous) = &mut self.previous {
            previous.set_len(0)?;
            copy(&self.file, 0, self.size, previous)?;
            Vec::new()
        } else {
            let mut half = Vec::new();
            // A file that cannot be read keeps nothing.
            let _ = copy(&self.file, self.size - self.limit / 2, self.size, &mut half);
            half
        };
        self.file.set_len(0)?;
        self.file.write_all(&kept)?;
        self.size = kept.len() as u64;
        Ok(())
    }
}

fn copy(from: &File, mut at: u64, end: u64, to: &mut impl io::Write) -> io::Result<()> {
    let mut chunk = vec![0; COPY_CHUNK];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
        let got = from.read_at(&mut chunk[..want], at)?;
        if got == 0 {
            break;
        }
        to.write_all(&chunk[..got])?;
        at += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_appends_across_openings_and_rotates_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let previous = dir.path().join("console.log.1");
        ConsoleLog::open(&path, 10).unwrap().append(b"abcd").unwrap();
        let mut log = ConsoleLog::open(&path, 10).unwrap();
        log.append(b"efgh").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abcdefgh");
        log.append(b"ijkl").unwrap();
        assert_eq!(fs::read(&previous).unwrap(), b"abcdefghij");
        assert_eq!(fs::read(&path).unwrap(), b"kl");
        log.append(&[b'x'; 25]).unwrap();
        assert_eq!(fs::read(&previous).unwrap(), [b'x'; 10]);
        assert_eq!(fs::read(&path).unwrap(), [b'x'; 7]);
    }

    #[test]
    fn a_lone_descriptor_keeps_the_newer_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).unwrap();
        let mut log = ConsoleLog::from_file(file, 8).unwrap();
        log.append(b"12345678").unwrap();
        log.append(b"9").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"56789");
    }
}
