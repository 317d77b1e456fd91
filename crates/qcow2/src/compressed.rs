//! Decompression of one cluster; the output is capped by the cluster size.

use flate2::{Decompress, FlushDecompress, Status};

use crate::error::Error;
use crate::format::header::Compression;

/// Unpack `packed`, which may have trailing bytes of other clusters, into `out`, one cluster.
pub(crate) fn unpack(kind: Compression, packed: &[u8], out: &mut [u8]) -> Result<(), Error> {
    let bad = |problem: String| Error::invalid("compressed cluster", problem);
    let produced = match kind {
        Compression::Zlib => {
            let mut stream = Decompress::new(false);
            let status = stream
                .decompress(packed, out, FlushDecompress::Finish)
                .map_err(|e| bad(format!("deflate: {e}")))?;
            match status {
                Status::StreamEnd | Status::BufError | Status::Ok => stream.total_out() as usize,
            }
        }
        Compression::Zstd => {
            let mut stream = zstd::stream::raw::Decoder::new()
                .map_err(|e| Error::io("set up zstd decompression", e))?;
            zstd_stream(&mut stream, packed, out).map_err(|e| bad(format!("zstd: {e}")))?
        }
    };
    if produced != out.len() {
        return Err(bad(format!("it unpacks to {produced} of {} bytes", out.len())));
    }
    Ok(())
}

fn zstd_stream(
    stream: &mut zstd::stream::raw::Decoder<'_>,
    packed: &[u8],
    out: &mut [u8],
) -> std::io::Result<usize> {
    use zstd::stream::raw::Operation;
    let (mut read, mut written) = (0, 0);
    while written < out.len() {
        let status = stream.run_on_buffers(&packed[read..], &mut out[written..])?;
        read += status.bytes_read;
        written += status.bytes_written;
        if status.bytes_read == 0 && status.bytes_written == 0 {
            break;
        }
    }
    Ok(written)
}
