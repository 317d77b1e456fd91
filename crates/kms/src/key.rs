//! Keys and how one wraps the other: AES-256-GCM, bound to the master key's id.

use std::fmt;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use rand::{TryRngCore as _, rngs::OsRng};
use zeroize::Zeroizing;

use crate::KmsError;

/// Bytes of a key of either kind.
const BYTES: usize = 32;
/// Bytes of the number that is used once, which the wrapped key begins with.
const NONCE: usize = 12;
/// What wrapped keys are for, so that nothing else the same key encrypts is taken for one.
const PURPOSE: &str = "ecs disk data key 1 ";

/// A data key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// The master key that wraps it.
    pub key_id: String,
    /// The wrapped key.
    pub wrapped: Vec<u8>,
}

/// A data key in the clear. Never shown, and erased when it goes.
pub struct DataKey(Zeroizing<[u8; BYTES]>);

impl DataKey {
    /// As a passphrase: in hexadecimal, 64 characters.
    #[must_use]
    pub fn passphrase(&self) -> Zeroizing<Vec<u8>> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Zeroizing::new(Vec::with_capacity(BYTES * 2));
        for byte in self.0.iter() {
            text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        text
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// A master key in memory. Never shown, and erased when it goes.
pub struct MasterKey {
    id: String,
    bytes: Zeroizing<[u8; BYTES]>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

impl MasterKey {
    /// The key of this id from its text: 64 hexadecimal digits, with white space around them.
    /// None for anything else.
    #[must_use]
    pub fn parse(id: &str, text: &[u8]) -> Option<Self> {
        let digits = text.trim_ascii();
        if digits.len() != BYTES * 2 {
            return None;
        }
        let mut bytes = Zeroizing::new([0; BYTES]);
        for (byte, two) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(two[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(Self { id: id.to_owned(), bytes })
    }

    /// A new data key, wrapped.
    ///
    /// # Errors
    /// [`KmsError::Random`].
    pub fn generate(&self) -> Result<WrappedKey, KmsError> {
        let mut key = Zeroizing::new([0; BYTES]);
        let mut nonce = [0; NONCE];
        let random = |bytes: &mut [u8]| {
            OsRng.try_fill_bytes(bytes).map_err(|e| KmsError::Random(e.to_string()))
        };
        random(&mut *key)?;
        random(&mut nonce)?;
        let aad = self.bound_to();
        let payload = Payload { msg: &*key, aad: aad.as_bytes() };
        let sealed = self
            .cipher()
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|e| KmsError::Random(e.to_string()))?;
        let mut wrapped = nonce.to_vec();
        wrapped.extend(sealed);
        Ok(WrappedKey { key_id: self.id.clone(), wrapped })
    }

    /// The data key.
    ///
    /// # Errors
    /// [`KmsError::NotItsKey`].
    pub fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, KmsError> {
        let not_its_key = || KmsError::NotItsKey { key_id: self.id.clone() };
        let (nonce, sealed) =
            wrapped.wrapped.split_first_chunk::<NONCE>().ok_or_else(not_its_key)?;
        let aad = self.bound_to();
        let payload = Payload { msg: sealed, aad: aad.as_bytes() };
        let opened = self.cipher().decrypt(&Nonce::from(*nonce), payload);
        let opened = Zeroizing::new(opened.map_err(|_| not_its_key())?);
        let mut key = Zeroizing::new([0; BYTES]);
        if opened.len() != BYTES {
            return Err(not_its_key());
        }
        key.copy_from_slice(&opened);
        Ok(DataKey(key))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.bytes).into())
    }

    fn bound_to(&self) -> String {
        format!("{PURPOSE}{}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(id: &str, digit: &str) -> MasterKey {
        MasterKey::parse(id, digit.repeat(64).as_bytes()).unwrap()
    }

    #[test]
    fn only_the_key_that_wrapped_it_unwraps_a_data_key() {
        let key = master("a", "1");
        let wrapped = key.generate().unwrap();
        let clear = key.unwrap(&wrapped).unwrap();
        assert_eq!(clear.passphrase().len(), 64);
        assert_eq!(clear.passphrase(), key.unwrap(&wrapped).unwrap().passphrase());
        let part = clear.0.as_slice();
        assert!(!wrapped.wrapped.windows(8).any(|bytes| bytes == &part[..8]));
        let refused = |key: &MasterKey, wrapped: &WrappedKey| {
            matches!(key.unwrap(wrapped), Err(KmsError::NotItsKey { .. }))
        };
        assert!(refused(&master("a", "2"), &wrapped));
        // The same bytes under another name are another key.
        assert!(refused(&master("b", "1"), &wrapped));
        for at in 0..wrapped.wrapped.len() {
            let mut changed = wrapped.clone();
            changed.wrapped[at] ^= 1;
            assert!(refused(&key, &changed), "byte {at}");
            changed.wrapped.truncate(at);
            assert!(refused(&key, &changed), "cut at {at}");
        }
        assert_ne!(key.generate().unwrap().wrapped, wrapped.wrapped);
    }

    #[test]
    fn nothing_shows_a_key() {
        let key = master("a", "5");
        let shown = format!("{key:?} {:?}", key.unwrap(&key.generate().unwrap()).unwrap());
        assert_eq!(shown, "MasterKey(a) DataKey(..)");
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        for text in ["", "1", &"1".repeat(63), &"1".repeat(65), &"g".repeat(64), &"+1".repeat(32)] {
            assert!(MasterKey::parse("a", text.as_bytes()).is_none(), "{text:?}");
        }
        let line = format!("{}\n", "Ab".repeat(32));
        assert!(MasterKey::parse("a", line.as_bytes()).is_some());
    }
}
