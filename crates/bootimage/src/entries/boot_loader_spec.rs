//! Boot Loader Specification files, `loader/entries/*.conf`: Fedora's and its relatives' GRUB, and
//! systemd-boot. <https://uapi-group.org/specifications/specs/boot_loader_specification/>

use super::{Entry, Location, Volumes, version};
use crate::error::Error;

/// Where they are, on a root filesystem and on a separate `/boot` or EFI system partition.
const DIRECTORIES: &[&str] = &["/loader/entries", "/boot/loader/entries"];

/// Entries looked at.
const ENTRIES: usize = 256;

/// Entries of a volume with their ids, newest first. `variable` has the values of GRUB's variables.
pub(crate) fn entries(
    volumes: &Volumes,
    volume: usize,
    variable: &dyn Fn(&str) -> String,
) -> Result<Vec<(String, Entry)>, Error> {
    for directory in DIRECTORIES {
        let mut found = Vec::new();
        for name in volumes.names(volume, directory)?.into_iter().take(ENTRIES) {
            let Some(id) = name.strip_suffix(".conf") else { continue };
            let at = Location { volume, path: format!("{directory}/{name}") };
            let Some(text) = volumes.text(&at)? else { continue };
            if let Some(entry) = parse(volumes, &at, id, &text, variable)? {
                found.push((id.to_owned(), entry));
            }
        }
        if !found.is_empty() {
            let is_rescue = |id: &str| id.contains("-0-rescue") || id.ends_with("rescue");
            found.sort_by(|(a, _), (b, _)| {
                is_rescue(a).cmp(&is_rescue(b)).then_with(|| version::compare(b, a))
            });
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// The entries in the order systemd-boot would take them: `loader.conf` may name the default.
pub(crate) fn entries_of_systemd_boot(
    volumes: &Volumes,
    volume: usize,
) -> Result<Vec<Entry>, Error> {
    let mut entries = entries(volumes, volume, &|_| String::new())?;
    let config = Location { volume, path: "/loader/loader.conf".to_owned() };
    let text = volumes.text(&config)?.unwrap_or_default();
    let wanted = text.lines().filter_map(|line| line.trim().strip_prefix("default")).next_back();
    if let Some(wanted) = wanted.map(str::trim)
        && let Some(at) = entries.iter().position(|(id, _)| {
            matches(wanted.as_bytes(), id.as_bytes())
                || matches(wanted.as_bytes(), format!("{id}.conf").as_bytes())
        })
    {
        entries[..=at].rotate_right(1);
    }
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn parse(
    volumes: &Volumes,
    at: &Location,
    id: &str,
    text: &str,
    variable: &dyn Fn(&str) -> String,
) -> Result<Option<Entry>, Error> {
    let mut title = id.to_owned();
    let mut kernel = None;
    let mut initrds = Vec::new();
    let mut options = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
        let value = value.trim();
        match key {
            "title" => title = value.to_owned(),
            "linux" => kernel = Some(expand(value, variable)),
            "initrd" => {
                let value = expand(value, variable);
                initrds.extend(value.split_whitespace().take(16).map(str::to_owned));
            }
            "options" => options.push(expand(value, variable)),
            _ => {}
        }
    }
    let Some(kernel) = kernel else { return Ok(None) };
    let place = |path: &str| -> Result<Location, Error> {
        let path = path.trim_start_matches('/');
        let plain = Location { volume: at.volume, path: format!("/{path}") };
        let below_boot = Location { volume: at.volume, path: format!("/boot/{path}") };
        // Paths start at the volume; some tools write them as seen from a /boot that is no volume.
        Ok(if !volumes.is_file(&plain)? && volumes.is_file(&below_boot)? {
            below_boot
        } else {
            plain
        })
    };
    let mut places = Vec::new();
    for path in initrds.iter().take(16) {
        places.push(place(path)?);
    }
    Ok(Some(Entry {
        title,
        kernel: place(&kernel)?,
        initrds: places,
        options: options.join(" ").split_whitespace().collect::<Vec<_>>().join(" "),
        config: at.path.clone(),
    }))
}

/// Replaces `$name` and `${name}`.
fn expand(text: &str, variable: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, left) = match after.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some(found) => found,
            None => {
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                after.split_at(end)
            }
        };
        out.push_str(&variable(name));
        rest = left;
    }
    out.push_str(rest);
    out
}

/// Shell patterns with `*` and `?`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_wherever_they_are() {
        let value = |name: &str| format!("<{name}>");
        assert_eq!(expand("$kernelopts $tuned_params", &value), "<kernelopts> <tuned_params>");
        assert_eq!(expand("a${b}c $", &value), "a<b>c <>");
        assert_eq!(expand("plain", &value), "plain");
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        assert!(matches(b"debian-*", b"debian-6.1"));
        assert!(matches(b"*6.1*", b"debian-6.1-cloud"));
        assert!(!matches(b"fedora-*", b"debian-6.1"));
        assert!(matches(b"?", b"a") && !matches(b"?", b""));
    }
}
