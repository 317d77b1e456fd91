//! Encrypted layers: the LUKS1 header that a qcow2 file of encryption method 2 carries, and the cipher
//! it unlocks.
//!
//! Each file has a key of its own, random, since sectors are encrypted by their place in the file: two
//! files with one key would show where they are equal. The header keeps it under a passphrase. That is
//! random as well, with all the bits of a key, so that few iterations do. `qemu-img` reads these files.

mod passphrase;
mod split;
mod xts;

use std::ops::Range;

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::format::be32;
use crate::storage::Storage;
pub use passphrase::Passphrase;
use xts::KEY_BYTES;
pub(crate) use xts::{SECTOR, Xts};

const MAGIC: &[u8] = b"LUKS\xba\xbe";
/// Bytes of the fields.
const FIELDS: usize = 592;
const SLOTS: usize = 8;
const SLOTS_AT: usize = 208;
const SLOT: usize = 48;
const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0x0000_dead;
const SALT: usize = 32;
const DIGEST: usize = 20;
/// Key slots begin at multiples of this, the first after the fields.
const ALIGN: usize = 4096;
const SLOT_BYTES: usize = split::BYTES.next_multiple_of(ALIGN);
/// Bytes of the whole header with room for all slots: 2 MiB less a little.
pub(crate) const LENGTH: u64 = (ALIGN + SLOTS * SLOT_BYTES) as u64;
/// The fewest that LUKS allows.
const ITERATIONS: u32 = if cfg!(test) { 2 } else { 1000 };
/// More in a header are an attack on whoever opens it.
const MOST_ITERATIONS: u32 = 4_000_000;

const CIPHER: (Range<usize>, &str) = (8..40, "aes");
const MODE: (Range<usize>, &str) = (40..72, "xts-plain64");
const HASH: (Range<usize>, &str) = (72..104, "sha256");

/// Where a file has its LUKS header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) length: u64,
}

fn derive(passphrase: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
    pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, salt, iterations, out);
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    OsRng
        .try_fill_bytes(bytes)
        .map_err(|e| Error::io("make a random key", std::io::Error::other(e)))
}

/// A header with a new key, without the slots behind the first, which are unused; and the cipher.
pub(crate) fn create(passphrase: &Passphrase) -> Result<(Vec<u8>, Xts), Error> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    random(&mut *key)?;
    let mut random_parts = [0; 2 * SALT + 16];
    random(&mut random_parts)?;
    let (salts, uuid) = random_parts.split_at(2 * SALT);
    let (digest_salt, slot_salt) = salts.split_at(SALT);

    let mut out = vec![0; ALIGN + SLOT_BYTES];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(6, &1u16.to_be_bytes());
    for (field, text) in [CIPHER, MODE, HASH] {
        put(field.start, text.as_bytes());
    }
    put(104, &((LENGTH / SECTOR) as u32).to_be_bytes());
    put(108, &(KEY_BYTES as u32).to_be_bytes());
    let mut digest = [0; DIGEST];
    derive(&*key, digest_salt, ITERATIONS, &mut digest);
    put(112, &digest);
    put(132, digest_salt);
    put(164, &ITERATIONS.to_be_bytes());
    put(168, uuid_text(uuid).as_bytes());
    for slot in 0..SLOTS {
        let at = SLOTS_AT + slot * SLOT;
        put(at, &if slot == 0 { ACTIVE } else { INACTIVE }.to_be_bytes());
        if slot == 0 {
            put(at + 4, &ITERATIONS.to_be_bytes());
            put(at + 8, slot_salt);
        }
        let sector = (ALIGN + slot * SLOT_BYTES) as u64 / SECTOR;
        put(at + 40, &(sector as u32).to_be_bytes());
        put(at + 44, &(split::STRIPES as u32).to_be_bytes());
    }
    let material = &mut out[ALIGN..ALIGN + split::BYTES];
    random(material)?;
    split::split(&key, material);
    slot_cipher(passphrase, slot_salt, ITERATIONS).encrypt(0, material);
    Ok((out, Xts::new(&key)))
}

fn uuid_text(random: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in random.iter().enumerate() {
        let byte = match index {
            // Version 4, variant 1: random.
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn slot_cipher(passphrase: &Passphrase, salt: &[u8], iterations: u32) -> Xts {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    derive(passphrase.bytes(), salt, iterations, &mut *key);
    Xts::new(&key)
}

/// The cipher of a file whose header is at `place`.
pub(crate) fn open(
    file: &dyn Storage,
    place: Place,
    passphrase: Option<&Passphrase>,
) -> Result<Xts, Error> {
    let passphrase = passphrase.ok_or(Error::Locked { problem: "no key for it was given" })?;
    let mut fields = [0; FIELDS];
    read(file, place, 0, &mut fields)?;
    check_fields(&fields)?;
    for slot in fields[SLOTS_AT..].chunks_exact(SLOT) {
        if be32(slot, 0) != ACTIVE {
            continue;
        }
        if be32(slot, 44) as usize != split::STRIPES {
            return Err(Error::invalid("LUKS key slot", format!("{} stripes", be32(slot, 44))));
        }
        let iterations = bounded(be32(slot, 4))?;
        let mut material = Zeroizing::new(vec![0; split::BYTES]);
        read(file, place, u64::from(be32(slot, 40)) * SECTOR, &mut material)?;
        slot_cipher(passphrase, &slot[8..8 + SALT], iterations).decrypt(0, &mut material);
        let key = split::merge(&material);
        let mut digest = [0; DIGEST];
        derive(&*key, &fields[132..132 + SALT], bounded(be32(&fields, 164))?, &mut digest);
        if digest == fields[112..112 + DIGEST] {
            return Ok(Xts::new(&key));
        }
    }
    Err(Error::Locked { problem: "the key that was given is not its key" })
}

fn read(file: &dyn Storage, place: Place, at: u64, out: &mut [u8]) -> Result<(), Error> {
    let inside = at.checked_add(out.len() as u64).is_some_and(|end| end <= place.length);
    let offset = place.offset.checked_add(at).filter(|_| inside);
    let cut = || Error::invalid("LUKS header", "it is cut short");
    let n = file
        .read_at(out, offset.ok_or_else(cut)?)
        .map_err(|e| Error::io("read the LUKS header", e))?;
    if n < out.len() { Err(cut()) } else { Ok(()) }
}

fn bounded(iterations: u32) -> Result<u32, Error> {
    if (1..=MOST_ITERATIONS).contains(&iterations) {
        return Ok(iterations);
    }
    Err(Error::invalid("LUKS header", format!("{iterations} iterations")))
}

fn check_fields(fields: &[u8; FIELDS]) -> Result<(), Error> {
    if !fields.starts_with(MAGIC) || fields[6..8] != [0, 1] {
        return Err(Error::invalid("LUKS header", "it does not begin as one of version 1"));
    }
    for (field, wanted) in [CIPHER, MODE, HASH] {
        let text = fields[field].split(|byte| *byte == 0).next().unwrap_or_default();
        if text != wanted.as_bytes() {
            let feature = format!("LUKS with {}", String::from_utf8_lossy(text));
            let remedy = "encrypt with aes-256, xts-plain64 and sha256";
            return Err(Error::Unsupported { feature, remedy });
        }
    }
    if be32(fields, 108) as usize != KEY_BYTES {
        let feature = format!("LUKS keys of {} bytes", be32(fields, 108));
        return Err(Error::Unsupported { feature, remedy: "encrypt with aes-256 in XTS mode" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_passphrase_gives_the_key_back() {
        let right = Passphrase::new(b"right".to_vec());
        let (bytes, made) = create(&right).unwrap();
        let file = tempfile::tempfile().unwrap();
        Storage::write_at(&file, &bytes, 512).unwrap();
        let place = Place { offset: 512, length: LENGTH };
        let opened = open(&file, place, Some(&right)).unwrap();
        let (mut a, mut b) = (vec![1; 512], vec![1; 512]);
        made.encrypt(3, &mut a);
        opened.encrypt(3, &mut b);
        assert_eq!(a, b);
        let wrong = Passphrase::new(b"wrong".to_vec());
        assert!(matches!(open(&file, place, Some(&wrong)), Err(Error::Locked { .. })));
        assert!(matches!(open(&file, place, None), Err(Error::Locked { .. })));
        assert!(!format!("{right:?}").contains("right"));
        // Another of the same passphrase has another key.
        let (other, _) = create(&right).unwrap();
        assert_ne!(other[ALIGN..], bytes[ALIGN..]);
    }

    #[test]
    fn headers_that_ask_for_the_unreasonable_are_refused() {
        let passphrase = Passphrase::new(b"p".to_vec());
        let (bytes, _) = create(&passphrase).unwrap();
        let place = Place { offset: 0, length: LENGTH };
        let refused = |at: usize, change: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            let mut bytes = bytes.clone();
            bytes[at..at + change.len()].copy_from_slice(change);
            Storage::write_at(&file, &bytes, 0).unwrap();
            let error = open(&file, place, Some(&passphrase)).unwrap_err();
            assert!(!matches!(error, Error::Locked { .. }), "{at}: {error}");
        };
        refused(0, b"SKUL");
        refused(7, &[2]);
        refused(8, b"serpent");
        refused(40, b"cbc-plain\0");
        refused(108, &32u32.to_be_bytes());
        refused(SLOTS_AT + 4, &u32::MAX.to_be_bytes());
        refused(SLOTS_AT + 40, &u32::MAX.to_be_bytes());
        refused(SLOTS_AT + 44, &u32::MAX.to_be_bytes());
        refused(164, &u32::MAX.to_be_bytes());
        let short = Place { offset: 0, length: 4096 };
        let file = tempfile::tempfile().unwrap();
        Storage::write_at(&file, &bytes, 0).unwrap();
        assert!(open(&file, short, Some(&passphrase)).is_err());
    }
}
