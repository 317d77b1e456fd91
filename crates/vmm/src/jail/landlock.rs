//! Landlock: no file system access by path and no TCP at all, where the kernel has it.

use super::JailError;
use crate::say::say;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetError, RulesetStatus,
};
use std::io;

/// The newest set of rights this program knows to give up.
const RIGHTS: ABI = ABI::V5;

pub(super) fn restrict() -> Result<(), JailError> {
    let status = apply().map_err(|error| JailError {
        step: "landlock".to_owned(),
        source: io::Error::other(error),
    })?;
    match status {
        RulesetStatus::FullyEnforced => {}
        RulesetStatus::PartiallyEnforced => {
            say(format_args!("jail: this kernel's landlock covers a part of the rights only"));
        }
        RulesetStatus::NotEnforced => {
            say(format_args!("jail: this kernel has no landlock; the other walls stand"));
        }
    }
    Ok(())
}

fn apply() -> Result<RulesetStatus, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RIGHTS))?
        .handle_access(AccessNet::from_all(RIGHTS))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}
