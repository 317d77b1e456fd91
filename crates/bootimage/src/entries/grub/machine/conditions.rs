//! `test` and `[`.

use super::Machine;
use crate::error::Error;
use crate::filesystems::Stat;

impl Machine<'_> {
    /// `test`: strings, numbers and files, with `!`, `-a` and `-o`.
    pub(super) fn test(&self, words: &[String]) -> Result<bool, Error> {
        for alternative in words.split(|word| word == "-o") {
            let mut all = true;
            for primary in alternative.split(|word| word == "-a") {
                let negations = primary.iter().take_while(|word| *word == "!").count();
                let holds = self.test_primary(&primary[negations..])?;
                all &= holds != (negations % 2 == 1);
            }
            if all {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn test_primary(&self, words: &[String]) -> Result<bool, Error> {
        // More words than any test has are none.
        let words: Vec<&str> = words.iter().take(4).map(String::as_str).collect();
        Ok(match words.as_slice() {
            ["-n", word] => !word.is_empty(),
            ["-z", word] => word.is_empty(),
            [flag @ ("-s" | "-f" | "-e" | "-d"), path] => self.test_file(flag, path)?,
            [word] => !word.is_empty(),
            [left, "=" | "==", right] => left == right,
            [left, "!=", right] => left != right,
            [left, "<", right] => left < right,
            [left, ">", right] => left > right,
            [left, "-eq", right] => number(left) == number(right),
            [left, "-ne", right] => number(left) != number(right),
            [left, "-lt", right] => number(left) < number(right),
            [left, "-le", right] => number(left) <= number(right),
            [left, "-gt", right] => number(left) > number(right),
            [left, "-ge", right] => number(left) >= number(right),
            _ => false,
        })
    }

    fn test_file(&self, flag: &str, path: &str) -> Result<bool, Error> {
        let Some(at) = self.locate(path) else { return Ok(false) };
        let stat = self.volumes.stat(&at)?;
        Ok(match flag {
            "-d" => stat == Some(Stat::Directory),
            "-s" => matches!(stat, Some(Stat::File(size)) if size > 0),
            "-f" => matches!(stat, Some(Stat::File(_))),
            _ => stat.is_some(),
        })
    }
}

fn number(word: &str) -> i64 {
    word.parse().unwrap_or(0)
}
