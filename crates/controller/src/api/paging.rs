//! Pages by number and by token.

use crate::ecs_error::{invalid, refuse};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use sha2::{Digest as _, Sha256};
use store::{Page, Refusal};

const DEFAULT_SIZE: u32 = 10;

/// A page by number: the page itself, its number and its size.
pub(super) fn numbered(number: u32, size: u32, largest: u32) -> Result<(Page, u32, u32), Refusal> {
    let number = number.max(1);
    let size = if size == 0 { DEFAULT_SIZE } else { size };
    if size > largest {
        return Err(refuse(
            400,
            "InvalidParameter",
            format!("page_size is {size}; it must be 1 to {largest}"),
        ));
    }
    let offset = u64::from(number - 1) * u64::from(size);
    Ok((Page::Offset { offset, limit: size }, number, size))
}

/// The page a request asks for, by number and size or by token, with the number and size to answer:
/// zeroes for a page by token. `filter` is as for [`by_token`].
pub(super) fn either<M: Message>(
    (number, size): (u32, u32),
    (token, max_results): (&str, u32),
    largest: u32,
    filter: &M,
) -> Result<(Page, u32, u32), Refusal> {
    if token.is_empty() && max_results == 0 {
        return numbered(number, size, largest);
    }
    if number > 0 || size > 0 {
        return Err(invalid(
            "give page_number and page_size, or next_token and max_results, not both",
        ));
    }
    Ok((by_token(token, max_results, largest, filter)?, 0, 0))
}

/// A page by token. `filter` is the request without its paging fields: a token is good for the
/// query it came from only.
pub(super) fn by_token<M: Message>(
    token: &str,
    max_results: u32,
    largest: u32,
    filter: &M,
) -> Result<Page, Refusal> {
    let limit = if max_results == 0 { DEFAULT_SIZE } else { max_results };
    if limit > largest {
        return Err(refuse(
            400,
            "InvalidParameter",
            format!("max_results is {limit}; it must be 1 to {largest}"),
        ));
    }
    if token.is_empty() {
        return Ok(Page::After { position: None, limit });
    }
    let invalid = || {
        refuse(
            400,
            "InvalidParameter",
            "next_token is not one this query gave; start again without it",
        )
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let (position, check) = bytes.split_first_chunk::<8>().ok_or_else(invalid)?;
    if check != fingerprint(filter) {
        return Err(invalid());
    }
    Ok(Page::After { position: Some(i64::from_be_bytes(*position)), limit })
}

/// The token of the page after a position; empty at the end.
pub(super) fn next_token<M: Message>(position: Option<i64>, filter: &M) -> String {
    position.map_or_else(String::new, |position| {
        let mut bytes = position.to_be_bytes().to_vec();
        bytes.extend(fingerprint(filter));
        URL_SAFE_NO_PAD.encode(bytes)
    })
}

fn fingerprint<M: Message>(filter: &M) -> [u8; 8] {
    let digest = Sha256::digest(filter.encode_to_vec());
    let mut fingerprint = [0; 8];
    fingerprint.copy_from_slice(&digest[..8]);
    fingerprint
}

/// A count on the wire.
pub(super) fn total(total: u64) -> u32 {
    u32::try_from(total).unwrap_or(u32::MAX)
}
