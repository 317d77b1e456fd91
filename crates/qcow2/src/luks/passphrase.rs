//! What opens a disk's encrypted layers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use zeroize::Zeroizing;

/// The most that [`Passphrase::read`] takes.
const MOST: usize = 512;

/// The passphrase of LUKS headers: one for all encrypted layers of a disk. Never shown, and erased when
/// the last copy goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Arc<Zeroizing<Vec<u8>>>);

impl Passphrase {
    /// These bytes. `qemu-img` takes UTF-8 only.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// What is in a file, such as a pipe or a memory file that was inherited, to its end.
    ///
    /// # Errors
    /// The host's, or `InvalidData` for an empty file or one of more than 512 bytes.
    pub fn read(file: &File) -> io::Result<Self> {
        // Of its whole size from the beginning: what grows leaves copies behind.
        let mut bytes = Zeroizing::new(vec![0; MOST + 1]);
        let mut len = 0;
        loop {
            match (&*file).read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if len == 0 || len > MOST {
            let problem = format!("a passphrase has 1 to {MOST} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        bytes.truncate(len);
        Ok(Self(Arc::new(bytes)))
    }

    /// Hand it on, as into a pipe.
    ///
    /// # Errors
    /// The receiver's.
    pub fn write_to(&self, out: &mut impl io::Write) -> io::Result<()> {
        out.write_all(&self.0)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}
