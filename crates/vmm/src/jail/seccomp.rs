//! System call filters, one per kind of thread.
//!
//! A call that is not on the list traps, and the handler says which one it was before the process
//! ends: a machine whose threads do what they should not is not to go on.

use crate::thread::ThreadKind;
use libc::{c_int, c_long, c_void};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::{collections::BTreeMap, io, mem, ptr};

/// Memory, locks, time and the thread's own life: what every thread needs.
const EVERY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Making threads, and what a new thread does before its own filter stands.
const MAKE_THREADS: &[c_long] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_prctl,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_seccomp,
    libc::SYS_set_robust_list,
];

/// Descriptors that wait for others.
const WAIT: &[c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// Disk images and logs: files that are already open, and rings that are set up already. A new ring
/// would do whatever it is told, without asking any filter.
const FILES: &[c_long] = &[
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_io_uring_enter,
];

/// Sockets that are already open, and those a listening one gives.
const SOCKETS: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// Getting vCPUs out of the guest.
const KICK: &[c_long] = &[libc::SYS_tgkill];

/// Kinds of ioctl requests: the second byte of the number names the driver.
const IOCTL_KVM: u64 = 0xae;
const IOCTL_VHOST: u64 = 0xaf;
/// Of the terminal driver's numbers, which network taps share, only those of taps.
const TAP_REQUESTS: &[u64] = &[
    0x4004_54d0, // TUNSETOFFLOAD
    0x4004_54d8, // TUNSETVNETHDRSZ
    0x4004_54dc, // TUNSETVNETLE
    0x8004_54d2, // TUNGETIFF
    0x4004_54d9, // TUNSETQUEUE
];
/// Whether descriptors block, which the standard library asks for by ioctl.
const FIONBIO: u64 = 0x5421;
/// Whether stdout is a terminal.
const TCGETS: u64 = 0x5401;
/// The terminal's mode, put back at the end.
const TCSETS: u64 = 0x5402;
/// The size of a block device that is a disk's layer.
const BLKGETSIZE64: u64 = 0x8008_1272;

struct Allowed {
    calls: Vec<&'static [c_long]>,
    drivers: &'static [u64],
    requests: Vec<u64>,
}

fn allowed(kind: ThreadKind) -> Allowed {
    let mut calls = vec![EVERY];
    let mut drivers: &[u64] = &[];
    let mut requests = vec![FIONBIO, TCGETS];
    match kind {
        // The others' filters add to this one, so it allows what any of them needs.
        ThreadKind::Spawner | ThreadKind::Main => {
            calls.extend([MAKE_THREADS, WAIT, FILES, SOCKETS, KICK]);
            drivers = &[IOCTL_KVM, IOCTL_VHOST];
            requests.extend(TAP_REQUESTS);
            requests.extend([TCSETS, BLKGETSIZE64]);
            calls.push(&[libc::SYS_dup3]);
        }
        ThreadKind::Vcpu => {
            // Registers of devices: doorbells, interrupts and queues are set up from here.
            calls.extend([&[libc::SYS_eventfd2, libc::SYS_fcntl] as &[c_long]]);
            drivers = &[IOCTL_KVM];
        }
        ThreadKind::VirtioWorker => {
            calls.extend([WAIT, FILES]);
            drivers = &[IOCTL_KVM, IOCTL_VHOST];
            requests.extend(TAP_REQUESTS);
        }
        ThreadKind::Control => {
            calls.extend([WAIT, FILES, SOCKETS, KICK]);
            drivers = &[IOCTL_KVM];
        }
        ThreadKind::Console => calls.extend([WAIT, FILES, SOCKETS]),
        ThreadKind::Device => {
            // Sets devices up and takes them down; its threads are made by the spawner.
            calls.extend([WAIT, FILES]);
            drivers = &[IOCTL_KVM, IOCTL_VHOST];
            requests.extend(TAP_REQUESTS);
            requests.push(BLKGETSIZE64);
            calls.push(&[libc::SYS_dup3]);
        }
    }
    Allowed { calls, drivers, requests }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(kind: ThreadKind) -> Result<Rules, seccompiler::BackendError> {
    let allowed = allowed(kind);
    let mut rules = Rules::new();
    for call in allowed.calls.into_iter().flatten() {
        rules.insert(*call, Vec::new());
    }
    let condition = |index, operator, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
    };
    let mut ioctls = Vec::new();
    for driver in allowed.drivers {
        let of_driver = condition(1, SeccompCmpOp::MaskedEq(0xff00), driver << 8)?;
        ioctls.push(SeccompRule::new(vec![of_driver])?);
    }
    for request in allowed.requests {
        ioctls.push(SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, request)?])?);
    }
    rules.insert(libc::SYS_ioctl, ioctls);
    // Memory, but none that can be executed.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_executable = condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![not_executable])?]);
    }
    Ok(rules)
}

fn program(kind: ThreadKind) -> Result<BpfProgram, seccompiler::BackendError> {
    let filter = SeccompFilter::new(
        rules(kind)?,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    filter.try_into()
}

/// Filters the calling thread's system calls for good.
///
/// # Errors
/// If the kernel refuses the filter.
pub fn confine(kind: ThreadKind) -> Result<(), String> {
    let program = program(kind).map_err(|error| format!("system call filter: {error}"))?;
    seccompiler::apply_filter(&program).map_err(|error| format!("system call filter: {error}"))
}

/// Makes a forbidden call end the process with its number.
///
/// # Errors
/// If the kernel refuses the handler.
pub fn report_violations() -> io::Result<()> {
    // SAFETY: all zeroes is a valid value of this C structure: no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_violation;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler has the signature SA_SIGINFO asks for and does nothing but what is
    // allowed in one.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Offset of `si_syscall` in `siginfo_t` on x86-64: after three ints, padding, and an address.
const SI_SYSCALL: usize = 24;

extern "C" fn on_violation(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a whole siginfo_t, and for SIGSYS this field is in it.
    let number = unsafe { info.cast::<u8>().add(SI_SYSCALL).cast::<c_int>().read() };
    let mut line = *b"ecs-vmm: jail: forbidden system call 0000\n";
    let mut rest = number.unsigned_abs();
    for digit in line[37..41].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // SAFETY: a buffer of ours; both calls are allowed in signal handlers and by every filter.
    unsafe {
        libc::write(2, line.as_ptr().cast(), line.len());
        libc::_exit(api::vmm::ExitCode::Host as c_int);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    const KINDS: [ThreadKind; 7] = [
        ThreadKind::Main,
        ThreadKind::Spawner,
        ThreadKind::Vcpu,
        ThreadKind::VirtioWorker,
        ThreadKind::Control,
        ThreadKind::Console,
        ThreadKind::Device,
    ];

    /// Runs `body` in a process of its own and returns its exit code.
    fn in_child(body: fn() -> i32) -> i32 {
        // SAFETY: the child calls nothing but `body` and `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let code = body();
                // SAFETY: no preconditions.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, code) => code,
                other => panic!("{other:?}"),
            },
        }
    }

    #[test]
    fn every_kind_has_a_filter_and_none_can_make_a_process_or_open_a_file() {
        for kind in KINDS {
            program(kind).unwrap();
            let rules = rules(kind).unwrap();
            for call in [
                libc::SYS_execve,
                libc::SYS_openat,
                libc::SYS_socket,
                libc::SYS_ptrace,
                libc::SYS_io_uring_setup,
                libc::SYS_io_uring_register,
            ] {
                assert!(!rules.contains_key(&call), "{kind:?} may call {call}");
            }
        }
    }

    #[test]
    fn the_spawner_may_do_what_any_of_its_threads_may() {
        let spawner = rules(ThreadKind::Spawner).unwrap();
        for kind in KINDS {
            for call in rules(kind).unwrap().keys() {
                assert!(spawner.contains_key(call), "{kind:?} needs {call}");
            }
        }
    }

    #[test]
    fn a_forbidden_call_ends_the_process_with_the_host_code() {
        let code = in_child(|| {
            if report_violations().is_err() || confine(ThreadKind::Vcpu).is_err() {
                return 1;
            }
            // SAFETY: no preconditions; it must not return.
            unsafe { libc::getppid() };
            2
        });
        assert_eq!(code, api::vmm::ExitCode::Host as i32);
    }

    #[test]
    fn allowed_calls_go_on_working_and_executable_memory_is_forbidden() {
        let code = in_child(|| {
            if report_violations().is_err() || confine(ThreadKind::Console).is_err() {
                return 1;
            }
            let memory = vec![1u8; 8 << 20];
            if memory.iter().map(|byte| u64::from(*byte)).sum::<u64>() == 8 << 20 { 0 } else { 2 }
        });
        assert_eq!(code, 0);
        let code = in_child(|| {
            if report_violations().is_err() || confine(ThreadKind::Console).is_err() {
                return 1;
            }
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            // SAFETY: a new anonymous mapping touches nothing that exists.
            unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
            2
        });
        assert_eq!(code, api::vmm::ExitCode::Host as i32);
    }
}
