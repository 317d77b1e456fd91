//! Master keys in files: `<folder>/<key id>.key` holds 64 hexadecimal digits, and `<folder>/default`
//! the id of the service's own key. A file named `<key id>.key.disabled` is a key that is disabled.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{DataKey, KeyManagement, KmsError, MasterKey, WrappedKey};

/// Of a file with a key or the id of one.
const MOST: usize = 256;
/// Names the service's own key.
const DEFAULT: &str = "default";

/// A folder of master keys. Files are read each time, so that what changes counts at once and no key is
/// kept in memory.
#[derive(Debug, Clone)]
pub struct KeyFolder {
    folder: PathBuf,
}

impl KeyFolder {
    /// This folder, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn master_key(&self, key_id: &str) -> Result<MasterKey, KmsError> {
        if !self.folder.is_dir() {
            return Err(KmsError::NoStore { place: self.place() });
        }
        let not_found = || KmsError::NotFound { key_id: key_id.to_owned(), place: self.place() };
        if !is_key_id(key_id) {
            return Err(not_found());
        }
        let path = self.folder.join(format!("{key_id}.key"));
        let unusable = |problem: String| KmsError::Unusable { key_id: key_id.to_owned(), problem };
        let text = match read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let disabled = self.folder.join(format!("{key_id}.key.disabled")).exists();
                let key_id = key_id.to_owned();
                return Err(if disabled { KmsError::Disabled { key_id } } else { not_found() });
            }
            Err(e) => return Err(unusable(format!("{}: {e}", path.display()))),
        };
        MasterKey::parse(key_id, &text)
            .ok_or_else(|| unusable(format!("{} has no 64 hexadecimal digits", path.display())))
    }

    fn own_key_id(&self) -> Result<String, KmsError> {
        if !self.folder.is_dir() {
            return Err(KmsError::NoStore { place: self.place() });
        }
        let path = self.folder.join(DEFAULT);
        let text = fs::read_to_string(&path).map_err(|e| KmsError::Unusable {
            key_id: DEFAULT.to_owned(),
            problem: format!("{}: {e}; it has to hold a key's id, or name one", path.display()),
        })?;
        Ok(text.trim().to_owned())
    }
}

impl KeyManagement for KeyFolder {
    fn generate_data_key(&self, key_id: &str) -> Result<WrappedKey, KmsError> {
        let own = if key_id.is_empty() { self.own_key_id()? } else { String::new() };
        self.master_key(if key_id.is_empty() { &own } else { key_id })?.generate()
    }

    fn unwrap_data_key(&self, wrapped: &WrappedKey) -> Result<DataKey, KmsError> {
        self.master_key(&wrapped.key_id)?.unwrap(wrapped)
    }
}

/// Letters, digits and hyphens, as KMS has them: nothing that leads out of the folder.
fn is_key_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        let problem = "others may read it too; chmod it to 600";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    // Of its whole size from the beginning: what grows leaves copies behind.
    let mut bytes = Zeroizing::new(vec![0; MOST]);
    let mut len = 0;
    while len < MOST {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn put(folder: &Path, name: &str, text: &str, mode: u32) {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keys_are_found_by_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(dir.path());
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        put(dir.path(), "key-1.key", &one, 0o600);
        put(dir.path(), "key-2.key", &format!("{two}\n"), 0o400);
        put(dir.path(), "open.key", &one, 0o644);
        put(dir.path(), "bad.key", "1234", 0o600);
        put(dir.path(), "off.key.disabled", &one, 0o600);
        let wrapped = folder.generate_data_key("key-1").unwrap();
        assert_eq!(wrapped.key_id, "key-1");
        folder.unwrap_data_key(&wrapped).unwrap();
        let as_other = WrappedKey { key_id: "key-2".to_owned(), ..wrapped.clone() };
        assert!(matches!(folder.unwrap_data_key(&as_other), Err(KmsError::NotItsKey { .. })));
        let error = |id: &str| folder.generate_data_key(id).unwrap_err();
        for id in ["key-3", "../key-1", "a/b", &"x".repeat(65)] {
            assert!(matches!(error(id), KmsError::NotFound { .. }), "{id}");
        }
        assert!(matches!(error("off"), KmsError::Disabled { .. }));
        assert!(matches!(error("open"), KmsError::Unusable { .. }));
        assert!(matches!(error("bad"), KmsError::Unusable { .. }));
        assert!(matches!(error(""), KmsError::Unusable { .. }), "none is the service's own yet");
        put(dir.path(), "default", "key-2\n", 0o644);
        assert_eq!(folder.generate_data_key("").unwrap().key_id, "key-2");
        // From now on nothing that it wraps can be unwrapped.
        fs::rename(dir.path().join("key-1.key"), dir.path().join("key-1.key.disabled")).unwrap();
        assert!(matches!(folder.unwrap_data_key(&wrapped), Err(KmsError::Disabled { .. })));
    }

    #[test]
    fn without_a_folder_there_is_no_store() {
        let folder = KeyFolder::new("/nonexistent/kms");
        assert!(matches!(folder.generate_data_key(""), Err(KmsError::NoStore { .. })));
        assert!(matches!(folder.generate_data_key("a"), Err(KmsError::NoStore { .. })));
    }
}
