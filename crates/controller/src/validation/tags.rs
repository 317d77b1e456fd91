//! Tags.

use crate::ecs_error::refuse;
use api::v1::Tag;
use std::collections::BTreeSet;
use store::Refusal;

/// At most 20, each key once, no reserved prefixes.
pub(crate) fn tags(tags: &[Tag]) -> Result<Vec<(String, String)>, Refusal> {
    if tags.len() > 20 {
        return Err(refuse(
            400,
            "InvalidTagCount",
            format!("{} tags given; a resource has at most 20", tags.len()),
        ));
    }
    let mut keys = BTreeSet::new();
    for tag in tags {
        if tag.key.is_empty() || tag.key.chars().count() > 128 || reserved(&tag.key) {
            return Err(refuse(
                400,
                "InvalidTagKey.Malformed",
                format!(
                    "tag key {:?} must have 1 to 128 characters and not begin with aliyun, acs:, \
                     http:// or https://",
                    tag.key
                ),
            ));
        }
        if tag.value.chars().count() > 128 {
            return Err(refuse(
                400,
                "InvalidTagValue.Malformed",
                format!("the value of tag {:?} has more than 128 characters", tag.key),
            ));
        }
        if !keys.insert(&tag.key) {
            return Err(refuse(
                400,
                "Duplicate.TagKey",
                format!("tag key {:?} is given twice", tag.key),
            ));
        }
    }
    Ok(tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect())
}

fn reserved(key: &str) -> bool {
    ["aliyun", "acs:", "http://", "https://"].iter().any(|prefix| key.starts_with(prefix))
}
