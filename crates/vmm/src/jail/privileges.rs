//! User, group, limits, and the end of gaining privileges.

use super::{JailError, failed};
use api::vmm::Jail;
use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::{Gid, Uid, getgid, getuid, setgroups, setresgid, setresuid},
};

/// Descriptors the process may have open unless the configuration says otherwise.
const DEFAULT_OPEN_FILES: u64 = 1024;

pub(super) fn limit(jail: &Jail) -> Result<(), JailError> {
    let files = if jail.max_open_files == 0 { DEFAULT_OPEN_FILES } else { jail.max_open_files };
    setrlimit(Resource::RLIMIT_NOFILE, files, files).map_err(failed("limit open files"))?;
    // Guest memory must not end up in a file.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("limit core dumps"))
}

pub(super) fn drop_to(uid: u32, gid: u32) -> Result<(), JailError> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if uid != getuid() || gid != getgid() {
        setgroups(&[]).map_err(failed("drop supplementary groups"))?;
        setresgid(gid, gid, gid).map_err(failed(format!("become group {gid}")))?;
        setresuid(uid, uid, uid).map_err(failed(format!("become user {uid}")))?;
    }
    prctl::set_no_new_privs().map_err(failed("no new privileges"))?;
    prctl::set_dumpable(false).map_err(failed("forbid dumps"))
}
