//! Comparison of version strings as package managers do it: digits by value, letters by alphabet,
//! and `~` before everything.

use std::cmp::Ordering;

/// Compares two versions, such as `6.1.0-9` and `6.1.0-18`.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    loop {
        left = skip_separators(left);
        right = skip_separators(right);
        match (left.first(), right.first()) {
            (Some(b'~'), Some(b'~')) => {
                left = &left[1..];
                right = &right[1..];
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(l), Some(r)) if l.is_ascii_digit() != r.is_ascii_digit() => {
                // A number is newer than a word.
                return l.is_ascii_digit().cmp(&r.is_ascii_digit());
            }
            (Some(l), _) => {
                let digits = l.is_ascii_digit();
                let (a, left_rest) = run(left, digits);
                let (b, right_rest) = run(right, digits);
                let order = if digits { by_value(a, b) } else { a.cmp(b) };
                if order != Ordering::Equal {
                    return order;
                }
                left = left_rest;
                right = right_rest;
            }
        }
    }
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let at = text.iter().position(|c| c.is_ascii_alphanumeric() || *c == b'~');
    &text[at.unwrap_or(text.len())..]
}

fn run(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
    let same = |c: &u8| c.is_ascii_alphanumeric() && c.is_ascii_digit() == digits;
    text.split_at(text.iter().position(|c| !same(c)).unwrap_or(text.len()))
}

fn by_value(left: &[u8], right: &[u8]) -> Ordering {
    let trim = |text: &[u8]| -> Vec<u8> {
        text.iter().copied().skip_while(|digit| *digit == b'0').collect()
    };
    let (left, right) = (trim(left), trim(right));
    left.len().cmp(&right.len()).then_with(|| left.cmp(&right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_by_value_and_tildes_come_first() {
        for (older, newer) in [
            ("6.1.0-9-cloud", "6.1.0-18-cloud"),
            ("6.1.0", "6.1.0-1"),
            ("6.1~rc1", "6.1"),
            ("5.14.0-70.el9", "5.14.0-362.8.1.el9"),
            ("6.1.a", "6.1.1"),
            ("6.1.007", "6.1.8"),
        ] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare(newer, older), Ordering::Greater, "{older} {newer}");
            assert_eq!(compare(newer, newer), Ordering::Equal);
        }
    }
}
