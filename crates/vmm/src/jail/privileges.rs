//! User, group, limits, and the end of gaining privileges.

use super::{JailError, failed};
use api::vmm::Jail;
use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, getgid, getuid, setgroups, setresgid, setresuid},
};

/// Descriptors the process may have open unless the configuration says otherwise.
const DEFAULT_OPEN_FILES: u64 = 1024;

/// Allows as many open files as the host does: queues take some each, and a machine may have many.
/// The jail lowers it again.
pub fn raise_open_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Refused or not, what is missing is said by who misses it.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Number of descriptors that are open; 0 where there is no /proc.
pub(super) fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// Limits the process, which has `open` files and may get `to_come` with disks, for good.
pub(super) fn limit(jail: &Jail, open: u64, to_come: u64) -> Result<(), JailError> {
    let wanted = if jail.max_open_files == 0 { DEFAULT_OPEN_FILES } else { jail.max_open_files };
    // A driver that starts its device makes for each queue less than what attaching it took.
    let least = wanted.max(2 * open);
    // Where the host allows fewer, fewer disks can come.
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(least, |(_, most)| most);
    let files = least.max((2 * open + to_come).min(most));
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{
        sys::wait::{WaitStatus, waitpid},
        unistd::{ForkResult, fork},
    };

    fn soft_limit() -> u64 {
        getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
    }

    #[test]
    fn the_limit_leaves_room_for_what_is_open_and_as_much_again() {
        // SAFETY: the child makes system calls and ends.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let _ = setrlimit(Resource::RLIMIT_NOFILE, 64, 4096);
                raise_open_files();
                let raised = soft_limit() == 4096;
                let few = Jail { max_open_files: 16, ..Default::default() };
                let more = limit(&few, 100, 50).is_ok() && soft_limit() == 250;
                let kept = more && limit(&few, 100, 0).is_ok() && soft_limit() == 200;
                // SAFETY: no preconditions.
                unsafe { libc::_exit(i32::from(!(raised && kept))) }
            }
        };
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    }
}
