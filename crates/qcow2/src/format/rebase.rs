//! Another backing file name in the header of an image that exists.

use super::header::{EXT_BACKING_FORMAT, EXT_END, Header, V2_LEN};
use super::{be32, be64};
use crate::error::Error;

/// What the host writes as a whole.
const SECTOR: usize = 512;

/// A backing file's name and format, as in a header.
pub(crate) type Backing<'a> = (&'a str, Option<&'a str>);

/// The writes (offset, bytes), each to be durable before the next, that make the header in `bytes`,
/// the beginning of the first cluster, name another backing file. The header is valid after each.
pub(crate) fn rebase(
    bytes: &[u8],
    backing: Option<Backing<'_>>,
) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let header = Header::decode(bytes)?;
    if header.backing_name.as_deref() == backing.map(|b| b.0)
        && (backing.is_none() || header.backing_format.as_deref() == backing.and_then(|b| b.1))
    {
        return Ok(Vec::new());
    }
    if let Some((name, _)) = backing
        && !(1..=1023).contains(&name.len())
    {
        return Err(Error::InvalidArgument(format!(
            "a backing file name has 1 to 1023 bytes, not {}",
            name.len()
        )));
    }
    let header_len = if header.geometry.version == 2 { V2_LEN } else { be32(bytes, 100) as usize };
    let extensions = Extensions::find(bytes, header_len);
    let small = extensions.rebuilt(bytes, header_len, backing);
    if small.len() <= SECTOR && bytes.len() >= SECTOR {
        let mut sector = small;
        sector.resize(SECTOR, 0);
        return Ok(vec![(0, sector)]);
    }
    extensions.in_place(bytes, backing)
}

/// Where the extensions lie.
struct Extensions {
    /// Where the list ends with an end mark, when it has one.
    end: Option<usize>,
    /// First byte after the list.
    after: usize,
    /// Each as (kind, first byte, first byte after it).
    list: Vec<(u32, usize, usize)>,
}

impl Extensions {
    /// The header was decoded: each extension lies inside `bytes`.
    fn find(bytes: &[u8], header_len: usize) -> Self {
        let limit = match be64(bytes, 8) {
            0 => bytes.len(),
            name => usize::try_from(name).unwrap_or(usize::MAX).min(bytes.len()),
        };
        let (mut at, mut list, mut end) = (header_len, Vec::new(), None);
        while at + 8 <= limit {
            let kind = be32(bytes, at);
            if kind == EXT_END {
                end = Some(at);
                at += 8;
                break;
            }
            let next = (at + 8 + be32(bytes, at + 4) as usize).next_multiple_of(8);
            list.push((kind, at, next));
            at = next;
        }
        Self { end, after: at, list }
    }

    /// The whole header anew.
    fn rebuilt(&self, bytes: &[u8], header_len: usize, backing: Option<Backing<'_>>) -> Vec<u8> {
        let mut out = bytes[..header_len].to_vec();
        out[8..20].fill(0);
        if let Some(format) = backing.and_then(|b| b.1) {
            out.extend_from_slice(&EXT_BACKING_FORMAT.to_be_bytes());
            out.extend_from_slice(&(format.len() as u32).to_be_bytes());
            out.extend_from_slice(format.as_bytes());
            out.resize(out.len().next_multiple_of(8), 0);
        }
        for (kind, start, end) in &self.list {
            if *kind != EXT_BACKING_FORMAT {
                let end = bytes.len().min(*end);
                out.extend_from_slice(bytes.get(*start..end).unwrap_or_default());
                out.resize(out.len().next_multiple_of(8), 0);
            }
        }
        out.extend_from_slice(&[0; 8]);
        if let Some((name, _)) = backing {
            let at = out.len() as u64;
            out[8..16].copy_from_slice(&at.to_be_bytes());
            out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    /// A header too long to be written as a whole: the new name goes where nothing is, then the
    /// header points to it. The format is changed where it stands.
    fn in_place(
        &self,
        bytes: &[u8],
        backing: Option<Backing<'_>>,
    ) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let no_room = || {
            Error::InvalidArgument(
                "the header has no room for another backing file name; use `qemu-img rebase -u`"
                    .into(),
            )
        };
        if self.end.is_none() {
            return Err(no_room());
        }
        let Some((name, format)) = backing else { return Ok(vec![(8, vec![0; 12])]) };
        let old = usize::try_from(be64(bytes, 8)).map_err(|_| no_room())?;
        let old =
            if old == 0 { self.after..self.after } else { old..old + be32(bytes, 16) as usize };
        let first = self.after.next_multiple_of(8);
        let at = if first + name.len() <= old.start {
            first
        } else {
            old.end.max(first).next_multiple_of(8)
        };
        if at + name.len() > bytes.len() {
            return Err(no_room());
        }
        let mut writes = vec![(at as u64, name.as_bytes().to_vec())];
        let place = self.list.iter().find(|(kind, _, _)| *kind == EXT_BACKING_FORMAT);
        if let (Some((_, start, end)), Some(format)) = (place, format)
            && format.len() <= end - start - 8
        {
            let mut extension = (format.len() as u32).to_be_bytes().to_vec();
            extension.extend_from_slice(format.as_bytes());
            extension.resize(end - start - 4, 0);
            writes.push((*start as u64 + 4, extension));
        }
        let mut pointer = (at as u64).to_be_bytes().to_vec();
        pointer.extend_from_slice(&(name.len() as u32).to_be_bytes());
        writes.push((8, pointer));
        Ok(writes)
    }
}
