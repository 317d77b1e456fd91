//! Sends a frame with descriptors: they go with its first bytes.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    fs::File,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd},
};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
};

/// Descriptors of one message, SCM_MAX_FD of the kernel: include/net/scm.h.
const MAX_FDS: usize = 253;

/// Writes the whole frame; the VMM gets `files` with its first byte.
pub async fn send(stream: &mut UnixStream, frame: &[u8], files: &[File]) -> io::Result<()> {
    let mut sent = 0;
    if !files.is_empty() {
        if files.len() > MAX_FDS {
            return Err(io::Error::other(format!(
                "{} files are more than the {MAX_FDS} that go with one request",
                files.len()
            )));
        }
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(File::as_fd).collect();
        sent = stream
            .async_io(Interest::WRITABLE, || {
                let mut space =
                    vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                    return Err(io::Error::other("no room for the descriptors"));
                }
                let data = [IoSlice::new(frame)];
                Ok(sendmsg(&*stream, &data, &mut control, SendFlags::NOSIGNAL)?)
            })
            .await?;
    }
    stream.write_all(frame.get(sent..).unwrap_or_default()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::{io::IoSliceMut, io::Read as _};

    #[tokio::test]
    async fn files_arrive_with_the_first_byte() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "layer").unwrap();
        let files = [File::open(&path).unwrap(), File::open(&path).unwrap()];
        send(&mut here, b"frame", &files).await.unwrap();
        there.readable().await.unwrap();
        let mut space = [MaybeUninit::uninit(); 256];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut first = [0u8; 1];
        recvmsg(&there, &mut [IoSliceMut::new(&mut first)], &mut control, RecvFlags::empty())
            .unwrap();
        let got: Vec<_> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!((first, got.len()), (*b"f", 2));
        let mut content = String::new();
        File::from(got.into_iter().next().unwrap()).read_to_string(&mut content).unwrap();
        assert_eq!(content, "layer");
        let mut rest = [0u8; 4];
        there.try_read(&mut rest).unwrap();
        assert_eq!(&rest, b"rame");
    }
}
