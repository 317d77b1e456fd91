//! When a policy's time points are.

use store::PolicyRecord;

const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// 1 is Monday. The epoch began on a Thursday.
fn weekday(day: i64) -> u32 {
    u32::try_from((day + 3).rem_euclid(7) + 1).unwrap_or(1)
}

/// The latest time point up to now, if there is one within a week.
pub(super) fn latest_point(policy: &PolicyRecord, now_ms: i64) -> Option<i64> {
    let today = now_ms.div_euclid(DAY_MS);
    (0..=7)
        .map(|back| today - back)
        .filter(|day| policy.weekdays.contains(&weekday(*day)))
        .flat_map(|day| {
            policy
                .time_points
                .iter()
                .rev()
                .map(move |hour| day * DAY_MS + i64::from(*hour) * HOUR_MS)
        })
        .find(|point| *point <= now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::{OffsetDateTime, Weekday};

    fn policy(time_points: &[u32], weekdays: &[u32]) -> PolicyRecord {
        PolicyRecord {
            time_points: time_points.to_vec(),
            weekdays: weekdays.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn weekdays_are_those_of_the_calendar() {
        for day in [-1, 0, 1, 20_000, 20_784] {
            let date = OffsetDateTime::from_unix_timestamp(day * 86_400).unwrap();
            assert_eq!(weekday(day), u32::from(date.weekday().number_from_monday()), "{day}");
        }
        let friday = OffsetDateTime::from_unix_timestamp(20_784 * 86_400).unwrap();
        assert_eq!(friday.weekday(), Weekday::Friday);
    }

    #[test]
    fn the_latest_point_is_found() {
        let friday = 20_784 * DAY_MS;
        let at = |hours: i64| friday + hours * HOUR_MS;
        let nightly = policy(&[1, 13], &[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(latest_point(&nightly, at(13)), Some(at(13)));
        assert_eq!(latest_point(&nightly, at(13) - 1), Some(at(1)));
        assert_eq!(latest_point(&nightly, at(0)), Some(at(13 - 24)));
        let thursdays = policy(&[22], &[4]);
        assert_eq!(latest_point(&thursdays, at(10)), Some(at(22 - 24)));
        assert_eq!(latest_point(&thursdays, at(22 - 24) - 1), Some(at(22 - 24 * 8)));
        assert_eq!(latest_point(&policy(&[], &[1]), at(0)), None);
    }
}
