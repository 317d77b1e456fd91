//! Times as ECS writes them.

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

const MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]Z");
const SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64
}

/// `2026-11-23T11:01Z`; empty for 0.
pub(crate) fn minute(ms: i64) -> String {
    format(ms, MINUTE)
}

/// `2026-11-23T11:01:07Z`; empty for 0.
pub(crate) fn second(ms: i64) -> String {
    format(ms, SECOND)
}

fn format(ms: i64, items: &[BorrowedFormatItem<'_>]) -> String {
    if ms == 0 {
        return String::new();
    }
    OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
        .ok()
        .and_then(|at| at.format(items).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn is_written_as_ecs_does() {
        assert_eq!(super::minute(1_795_431_667_000), "2026-11-23T11:01Z");
        assert_eq!(super::second(1_795_431_667_000), "2026-11-23T11:01:07Z");
        assert_eq!(super::minute(0), "");
    }
}
