//! The system calls that are left.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::error::Error;

/// Reading and writing open files, memory, and ending.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What abort(3) does.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
];

/// Allowed where the bits of an argument are as given: the call, the argument, the bits and their
/// value. Memory is never executable; of a descriptor only its flags can be asked, as the standard
/// library does before it closes one.
const ALLOWED_IF: &[(libc::c_long, u8, u32, u32)] = &[
    (libc::SYS_mmap, 2, libc::PROT_EXEC as u32, 0),
    (libc::SYS_mprotect, 2, libc::PROT_EXEC as u32, 0),
    (libc::SYS_fcntl, 1, u32::MAX, libc::F_GETFD as u32),
];

/// Allows the calls above. Any other raises `SIGSYS`, whose handler names it and ends the process.
pub(super) fn filter() -> Result<(), Error> {
    let failed = |error: seccompiler::Error| Error::Confinement {
        step: "seccomp",
        source: io::Error::other(error),
    };
    let program = program().map_err(|error| failed(error.into()))?;
    seccompiler::apply_filter(&program).map_err(failed)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    for &(call, argument, bits, value) in ALLOWED_IF {
        let condition = SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(bits.into()),
            value.into(),
        )?;
        rules.insert(call, vec![SeccompRule::new(vec![condition])?]);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, arch)?.try_into()
}
