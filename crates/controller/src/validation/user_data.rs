//! User data.

use crate::ecs_error::refuse;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use store::Refusal;

/// Most bytes before Base64.
const LIMIT: usize = 32 * 1024;

/// Decodes user data.
pub(crate) fn user_data(encoded: &str) -> Result<Vec<u8>, Refusal> {
    let too_large = |size: usize| {
        refuse(
            400,
            "InvalidUserData.SizeExceeded",
            format!("user_data has {size} bytes before Base64; at most {LIMIT} are allowed"),
        )
    };
    // Line breaks are what `base64` without -w0 puts in.
    let compact: String = encoded.split_ascii_whitespace().collect();
    if compact.len() / 4 * 3 > LIMIT + 3 {
        return Err(too_large(compact.len() / 4 * 3));
    }
    let decoded = STANDARD.decode(compact).map_err(|error| {
        refuse(
            400,
            "InvalidUserData.Base64FormatInvalid",
            format!("user_data is not Base64 ({error}); encode it first"),
        )
    })?;
    if decoded.len() > LIMIT { Err(too_large(decoded.len())) } else { Ok(decoded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_before_base64() {
        assert_eq!(user_data(&STANDARD.encode(vec![7; LIMIT])).unwrap().len(), LIMIT);
        let refusal = user_data(&STANDARD.encode(vec![7; LIMIT + 1])).unwrap_err();
        assert_eq!(refusal.code, "InvalidUserData.SizeExceeded");
        let refusal = user_data(&"A".repeat(1 << 20)).unwrap_err();
        assert_eq!(refusal.code, "InvalidUserData.SizeExceeded");
    }

    #[test]
    fn must_be_base64() {
        assert_eq!(
            user_data("#cloud-config").unwrap_err().code,
            "InvalidUserData.Base64FormatInvalid"
        );
        assert_eq!(user_data("I2Ns\nb3Vk").unwrap(), b"#cloud");
    }
}
