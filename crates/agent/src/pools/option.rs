//! `--pool name=NAME,path=DIR,...`.

use crate::{layout::is_safe_id, lease::Terms};
use std::{path::PathBuf, time::Duration};

/// Name of the pool that every host has, in its state directory.
pub const DEFAULT: &str = "default";
/// A holder may use a disk for so long after a look, if nothing else is said.
const HOLD: Duration = Duration::from_secs(20);
const HOLD_RANGE: std::ops::RangeInclusive<u64> = 2..=3600;
/// In this part of it a VMM is ended.
const STOP: u32 = 5;

/// A pool as the agent was told of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolOption {
    /// Unique on the host.
    pub name: String,
    /// Its directory; none for the default pool.
    pub path: Option<PathBuf>,
    /// GiB of disks offered per GiB; none: as the controller has it.
    pub overcommit: Option<f64>,
    /// With fewer bytes available it takes no new disks; none: a twentieth, at most 10 GiB.
    pub reserve: Option<u64>,
    /// Bytes offered; none: all of the file system.
    pub capacity: Option<u64>,
    /// Other hosts may name the same directory.
    pub shared: bool,
    /// [`Terms::hold`] of the leases in a shared one that is made now.
    pub lease: Option<Duration>,
}

impl PoolOption {
    /// Parses one.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut option = Self::default();
        for part in text.split(',') {
            if part == "shared" {
                option.shared = true;
                continue;
            }
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
            match key {
                "name" if is_safe_id(value) => option.name = value.to_owned(),
                "name" => {
                    return Err(format!(
                        "name {value:?} must be 1 to 64 of a-z, A-Z, 0-9, - and _"
                    ));
                }
                "path" if value.starts_with('/') => option.path = Some(value.into()),
                "path" => return Err(format!("path {value:?} must begin with /")),
                "overcommit" => {
                    let factor = value.parse::<f64>().ok();
                    let factor = factor.filter(|f| (0.01..=1000.0).contains(f));
                    option.overcommit = Some(factor.ok_or_else(|| {
                        format!("overcommit {value:?} must be a number from 0.01 to 1000")
                    })?);
                }
                "reserve" => option.reserve = Some(bytes(key, value)?),
                "capacity" => option.capacity = Some(bytes(key, value)?),
                "lease" => {
                    let seconds = value.strip_suffix('s').and_then(|s| s.parse::<u64>().ok());
                    let seconds = seconds.filter(|s| HOLD_RANGE.contains(s));
                    option.lease = Some(Duration::from_secs(
                        seconds.ok_or_else(|| format!("lease {value:?} must be 2s to 3600s"))?,
                    ));
                }
                _ => {
                    return Err(format!(
                        "{key:?} is none of name, path, overcommit, reserve, capacity, shared, lease"
                    ));
                }
            }
        }
        match (option.name.as_str(), &option.path) {
            ("", _) => Err("name=NAME is missing".to_owned()),
            (DEFAULT, Some(_)) => {
                Err("the default pool is in --state-dir; leave its path out".to_owned())
            }
            (DEFAULT, None) if option.shared => {
                Err("the default pool is this host's; it cannot be shared".to_owned())
            }
            _ if option.lease.is_some() && !option.shared => {
                Err("lease is for shared pools".to_owned())
            }
            (DEFAULT, None) | (_, Some(_)) => Ok(option),
            (_, None) => Err("path=DIR is missing".to_owned()),
        }
    }
}

impl PoolOption {
    /// Times of the leases of a shared pool that is made with this option.
    pub(super) fn terms(&self) -> Terms {
        let hold = self.lease.unwrap_or(HOLD);
        Terms { hold, stop: hold / STOP }
    }
}

fn bytes(key: &str, value: &str) -> Result<u64, String> {
    let wrong = || format!("{key} {value:?} must be a size such as 10GiB");
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| value.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((value, 0));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_parsed_and_what_is_wrong_is_said() {
        let pool =
            PoolOption::parse("name=fast,path=/srv/a=b,overcommit=1.5,reserve=10GiB").unwrap();
        assert_eq!((pool.name.as_str(), pool.path), ("fast", Some("/srv/a=b".into())));
        assert_eq!((pool.overcommit, pool.reserve), (Some(1.5), Some(10 << 30)));
        let shared = PoolOption::parse("name=nfs,path=/srv/nfs,shared,lease=10s").unwrap();
        let of = Duration::from_secs;
        assert_eq!((shared.shared, shared.terms()), (true, Terms { hold: of(10), stop: of(2) }));
        let default = PoolOption::parse("name=default,capacity=2TiB").unwrap();
        assert_eq!((default.path, default.capacity), (None, Some(2 << 40)));
        for (text, what) in [
            ("path=/srv", "name=NAME is missing"),
            ("name=x", "path=DIR is missing"),
            ("name=default,path=/x", "leave its path out"),
            ("name=../x,path=/x", "must be 1 to 64"),
            ("name=x,path=srv", "must begin with /"),
            ("name=x,path=/x,overcommit=0", "0.01 to 1000"),
            ("name=x,path=/x,overcommit=NaN", "0.01 to 1000"),
            ("name=x,path=/x,reserve=lots", "such as 10GiB"),
            ("name=x,path=/x,capacity=99999999TiB", "such as 10GiB"),
            ("name=x,path=/x,colour=red", "is none of"),
            ("fast", "is not KEY=VALUE"),
            ("name=default,shared", "cannot be shared"),
            ("name=x,path=/x,lease=5s", "for shared pools"),
            ("name=x,path=/x,shared,lease=1s", "2s to 3600s"),
        ] {
            let said = PoolOption::parse(text).unwrap_err();
            assert!(said.contains(what), "{text}: {said}");
        }
    }
}
