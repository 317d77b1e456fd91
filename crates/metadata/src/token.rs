//! Session tokens: bound to an instance and a time, valid over restarts, kept by nobody.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a client may ask for, in seconds.
pub(crate) const TTL_SECONDS: std::ops::RangeInclusive<u64> = 1..=21_600;

const EXPIRY_BYTES: usize = 8;
const NONCE_BYTES: usize = 8;
const SIGNATURE_BYTES: usize = 32;
const TOKEN_BYTES: usize = EXPIRY_BYTES + NONCE_BYTES + SIGNATURE_BYTES;

/// Makes a token for an instance. None if the clock shows a time before 1970.
pub(crate) fn issue(
    key: &[u8; 32],
    instance_id: &str,
    now: SystemTime,
    ttl: Duration,
) -> Option<String> {
    let expiry = (now + ttl).duration_since(UNIX_EPOCH).ok()?.as_secs();
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let mut token = Vec::with_capacity(TOKEN_BYTES);
    token.extend(expiry.to_be_bytes());
    token.extend(nonce);
    let signature = mac(key, &token, instance_id)?.finalize().into_bytes();
    token.extend(signature);
    Some(URL_SAFE_NO_PAD.encode(token))
}

/// Whether a token was made for this instance and has not expired.
pub(crate) fn is_valid(key: &[u8; 32], instance_id: &str, now: SystemTime, token: &str) -> bool {
    check(key, instance_id, now, token).is_some()
}

fn check(key: &[u8; 32], instance_id: &str, now: SystemTime, token: &str) -> Option<()> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let bytes: [u8; TOKEN_BYTES] = bytes.try_into().ok()?;
    let (signed, signature) = bytes.split_at(EXPIRY_BYTES + NONCE_BYTES);
    mac(key, signed, instance_id)?.verify_slice(signature).ok()?;
    let expiry = u64::from_be_bytes(signed[..EXPIRY_BYTES].try_into().ok()?);
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (now < expiry).then_some(())
}

fn mac(key: &[u8; 32], signed: &[u8], instance_id: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(signed);
    mac.update(instance_id.as_bytes());
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn a_token_is_for_one_instance_one_key_and_a_time() {
        let now = SystemTime::now();
        let token = issue(&KEY, "i-1", now, Duration::from_secs(10)).expect("a token");
        assert!(is_valid(&KEY, "i-1", now, &token));
        assert!(is_valid(&KEY, "i-1", now + Duration::from_secs(8), &token));
        assert!(!is_valid(&KEY, "i-1", now + Duration::from_secs(11), &token));
        assert!(!is_valid(&KEY, "i-2", now, &token));
        assert!(!is_valid(&[8; 32], "i-1", now, &token));
    }

    #[test]
    fn no_bit_of_a_token_can_be_changed() {
        let now = SystemTime::now();
        let token = issue(&KEY, "i-1", now, Duration::from_secs(10)).expect("a token");
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64");
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&KEY, "i-1", now, &URL_SAFE_NO_PAD.encode(forged)), "bit {bit}");
        }
        for garbage in ["", "x", "ä", &token[1..], &format!("{token}A")] {
            assert!(!is_valid(&KEY, "i-1", now, garbage), "{garbage}");
        }
    }
}
