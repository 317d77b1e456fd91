//! Names and descriptions.

use crate::ecs_error::{invalid, refuse};
use store::Refusal;

fn starts_as_url(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.starts_with("http://") || lower.starts_with("https://")
}

/// A name for people: 2 to 128 characters, first a letter, then also digits and `. _ : - /`. Empty
/// is allowed: no name.
pub(crate) fn display_name(code: &'static str, what: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Ok(());
    }
    let length = name.chars().count();
    let good = (2..=128).contains(&length)
        && name.chars().next().is_some_and(char::is_alphabetic)
        && name.chars().all(|c| c.is_alphanumeric() || "._:-/".contains(c))
        && !starts_as_url(name);
    if good {
        return Ok(());
    }
    Err(refuse(
        400,
        code,
        format!(
            "{what} {name:?} must have 2 to 128 characters, begin with a letter, and hold only \
             letters, digits and . _ : - /"
        ),
    ))
}

/// The name of an image or a family of images: as names for people, and not one that ECS keeps for
/// itself.
pub(crate) fn image_name(code: &'static str, what: &str, name: &str) -> Result<(), Refusal> {
    if ["aliyun", "acs:"].iter().any(|reserved| name.to_ascii_lowercase().starts_with(reserved)) {
        return Err(refuse(
            400,
            code,
            format!(
                "{what} {name:?} begins with aliyun or acs:, which is reserved; choose another"
            ),
        ));
    }
    display_name(code, what, name)
}

/// Free text: at most 256 characters, not a URL.
pub(crate) fn description(code: &'static str, text: &str) -> Result<(), Refusal> {
    if text.chars().count() <= 256 && !starts_as_url(text) {
        return Ok(());
    }
    Err(refuse(
        400,
        code,
        "the description must have at most 256 characters and not begin with http:// or https://",
    ))
}

/// Of what an image runs on. Empty is allowed.
pub(crate) fn architecture(name: &str) -> Result<(), Refusal> {
    if ["", "x86_64", "arm64"].contains(&name) {
        return Ok(());
    }
    Err(refuse(
        400,
        "InvalidArchitecture.Malformed",
        format!("architecture is {name:?}; it must be x86_64 or arm64"),
    ))
}

/// A short text of one line.
pub(crate) fn label(parameter: &str, text: &str) -> Result<(), Refusal> {
    if text.chars().count() <= 128 && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid(format!("{parameter} must have at most 128 characters, all of them printable")))
}

/// A Linux host name: 2 to 64 characters in parts joined by single dots; each part of letters,
/// digits and inner hyphens.
pub(crate) fn host_name(name: &str) -> Result<(), Refusal> {
    let good_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && !part.contains("--")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if (2..=64).contains(&name.len()) && name.split('.').all(good_part) {
        return Ok(());
    }
    Err(refuse(
        400,
        "InvalidHostName.Malformed",
        format!(
            "host name {name:?} must have 2 to 64 characters: letters, digits, and single . or - \
             between them"
        ),
    ))
}

/// A name with its number, when a call makes several.
pub(crate) fn suffixed(name: &str, unique: bool, index: u32) -> String {
    if unique && !name.is_empty() { format!("{name}{:03}", index + 1) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for good in ["web-1", "a1", "db.example.org", &"a".repeat(64)] {
            assert!(host_name(good).is_ok(), "{good}");
        }
        for bad in
            ["a", "-web", "web-", "we--b", "a..b", ".a1", "a1.", "a_b", "ä1", &"a".repeat(65)]
        {
            assert!(host_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn display_names() {
        for good in ["", "ab", "Web.1_x:y-z", "测试"] {
            assert!(display_name("InvalidInstanceName.Malformed", "name", good).is_ok(), "{good}");
        }
        for bad in ["a", "1ab", "http://x", "a b", &"a".repeat(129)] {
            let refusal = display_name("InvalidInstanceName.Malformed", "name", bad).unwrap_err();
            assert_eq!(refusal.code, "InvalidInstanceName.Malformed");
        }
    }

    #[test]
    fn reserved_image_names() {
        assert!(image_name("InvalidImageName.Malformed", "image name", "my-aliyun").is_ok());
        for bad in ["aliyun_3", "Aliyun", "acs:x", "1st"] {
            let refusal = image_name("InvalidImageName.Malformed", "image name", bad).unwrap_err();
            assert_eq!(refusal.code, "InvalidImageName.Malformed");
        }
    }

    #[test]
    fn suffixes_count_from_one() {
        assert_eq!(suffixed("web", true, 0), "web001");
        assert_eq!(suffixed("web", false, 3), "web");
        assert_eq!(suffixed("", true, 3), "");
    }
}
