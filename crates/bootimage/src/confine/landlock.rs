//! Landlock: no file, no TCP.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};

use crate::error::Error;

/// Denies everything the running kernel's Landlock knows. `false` if it has none.
pub(super) fn deny_all() -> Result<bool, Error> {
    let restrict = || -> Result<RulesetStatus, RulesetError> {
        let abi = ABI::V6;
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?;
        Ok(ruleset.restrict_self()?.ruleset)
    };
    match restrict() {
        Ok(status) => Ok(status != RulesetStatus::NotEnforced),
        Err(error) => Err(Error::Confinement { step: "landlock", source: io::Error::other(error) }),
    }
}
