//! The thread that runs one vCPU, and how it is made to stop.
//!
//! A vCPU inside the guest is stopped by a signal: its handler sets `immediate_exit`, so that even
//! a signal that comes between the check for requests and entering the guest is not lost.

use crate::{
    bus::Bus,
    events::{Events, Exit},
    thread::{self, Handle, ThreadKind},
};
use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::{
    cell::Cell,
    io, ptr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

thread_local! {
    /// Run structure of the vCPU this thread runs, for the signal handler.
    static CURRENT: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// What all vCPUs shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Stay out of the guest.
    Paused,
    /// Run the guest.
    Running,
    /// End the thread.
    Stopped,
}

#[derive(Debug)]
struct GateState {
    wanted: RunState,
    inside: usize,
    threads: Vec<libc::pthread_t>,
    exits: Vec<Arc<AtomicU64>>,
}

/// Lets vCPUs into the guest, or keeps them out of it.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        let state = GateState {
            wanted: RunState::Paused,
            inside: 0,
            threads: Vec::new(),
            exits: Vec::new(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every vCPU do `wanted`, and waits until none is in the guest that should not be.
    pub fn set(&self, wanted: RunState) {
        let mut state = self.lock();
        if state.wanted == RunState::Stopped {
            return;
        }
        state.wanted = wanted;
        self.changed.notify_all();
        if wanted == RunState::Running {
            return;
        }
        while state.inside > 0 {
            for &thread in &state.threads {
                // SAFETY: a thread is in the list only while it runs; it leaves under this lock.
                unsafe { libc::pthread_kill(thread, kick_signal()) };
            }
            let wait = self.changed.wait_timeout(state, Duration::from_millis(50));
            (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How often any vCPU has left the guest.
    pub fn exits(&self) -> u64 {
        self.lock().exits.iter().map(|exits| exits.load(Ordering::Relaxed)).sum()
    }

    /// Waits to be let in; `false` if the thread shall end.
    fn enter(&self) -> bool {
        let mut state = self.lock();
        while state.wanted == RunState::Paused {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.wanted == RunState::Stopped {
            return false;
        }
        state.inside += 1;
        true
    }

    fn leave(&self) {
        self.lock().inside -= 1;
        self.changed.notify_all();
    }

    fn keeps_running(&self) -> bool {
        self.lock().wanted == RunState::Running
    }

    /// Makes the calling thread one to be stopped; returns where it counts its exits.
    fn join(&self) -> Arc<AtomicU64> {
        // SAFETY: no preconditions.
        let me = unsafe { libc::pthread_self() };
        let exits = Arc::new(AtomicU64::new(0));
        let mut state = self.lock();
        state.threads.push(me);
        state.exits.push(Arc::clone(&exits));
        exits
    }

    fn part(&self) {
        // SAFETY: no preconditions.
        let me = unsafe { libc::pthread_self() };
        self.lock().threads.retain(|&thread| thread != me);
    }
}

fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

extern "C" fn on_kick(_signal: libc::c_int) {
    let run = CURRENT.get();
    if !run.is_null() {
        // SAFETY: the pointer is set only while this very thread owns the vCPU it belongs to, and
        // KVM reads this byte only when it enters the guest.
        unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) };
    }
}

/// Installs the handler of the signal that gets vCPUs out of the guest.
///
/// # Errors
/// If the kernel refuses the handler.
pub fn install_kick_handler() -> io::Result<()> {
    vmm_sys_util::signal::register_signal_handler(kick_signal(), on_kick_info)
        .map_err(io::Error::from)
}

extern "C" fn on_kick_info(
    signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    on_kick(signal);
}

/// A running vCPU thread.
pub type VcpuThread = Handle<()>;

/// Runs `vcpu` in a thread of its own whenever `gate` lets it.
///
/// # Errors
/// If the thread cannot be made.
pub fn start(
    id: u32,
    mut vcpu: VcpuFd,
    gate: Arc<Gate>,
    mmio: Arc<Bus>,
    pio: Arc<Bus>,
    events: Events,
) -> io::Result<VcpuThread> {
    thread::spawn(ThreadKind::Vcpu, &format!("vcpu{id}"), move || {
        CURRENT.set(ptr::from_mut(vcpu.get_kvm_run()));
        let exits = gate.join();
        while gate.enter() {
            let result = run(&mut vcpu, &gate, &exits, &mmio, &pio);
            gate.leave();
            // Tells the guest's watchdogs that it was stopped; guests without kvm-clock refuse.
            let _ = vcpu.kvmclock_ctrl();
            if let Err(exit) = result {
                events.exit(exit);
                // Whoever waits for the exit stops the vCPUs; until then stay out of the guest.
                break;
            }
            if events.exiting().is_some() {
                break;
            }
        }
        gate.part();
        CURRENT.set(ptr::null_mut());
    })
}

/// Runs the guest until it is asked to leave it.
fn run(
    vcpu: &mut VcpuFd,
    gate: &Gate,
    exits: &AtomicU64,
    mmio: &Bus,
    pio: &Bus,
) -> Result<(), Exit> {
    loop {
        let result = vcpu.run();
        exits.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(VcpuExit::IoIn(port, data)) => {
                for item in data.chunks_mut(item_size()) {
                    pio.read(port.into(), item);
                }
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                for item in data.chunks(item_size()) {
                    pio.write(port.into(), item);
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                mmio.read(address, data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                mmio.write(address, data);
            }
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr) => {}
            Ok(VcpuExit::IoapicEoi(_)) => {}
            Ok(VcpuExit::InternalError) => {
                return Err(Exit::GuestFault(internal_error(vcpu)));
            }
            Ok(other) => return Err(end_of(&other)),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => {
                    vcpu.set_kvm_immediate_exit(0);
                    if !gate.keeps_running() {
                        return Ok(());
                    }
                }
                _ => return Err(Exit::HostFault(format!("KVM_RUN: {error}"))),
            },
        }
    }
}

/// How the machine ends after an exit that nothing can go on from.
fn end_of(exit: &VcpuExit<'_>) -> Exit {
    match exit {
        // A triple fault. Every board resets then, and kernels use it as their last way to reboot.
        VcpuExit::Shutdown => Exit::Reset,
        VcpuExit::FailEntry(reason, cpu) => Exit::GuestFault(format!(
            "hardware refused to enter the guest: {reason:#x} on CPU {cpu}"
        )),
        other => Exit::GuestFault(format!("unexpected exit {other:?}")),
    }
}

/// Bytes of one item of the port access this thread's vCPU has just left the guest for. A string
/// instruction moves many items to or from one port at once.
fn item_size() -> usize {
    let run = CURRENT.get();
    if run.is_null() {
        return 1;
    }
    // SAFETY: this thread owns the vCPU, and after a port access KVM has filled this member.
    let size = unsafe { (*run).__bindgen_anon_1.io.size };
    usize::from(size).max(1)
}

fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: after this exit reason, KVM has filled this member of the union.
    let error = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let at = vcpu.get_regs().map_or(0, |registers| registers.rip);
    let data = &error.data[..error.data.len().min(error.ndata as usize)];
    format!("KVM internal error {} at rip {at:#x}, data {data:x?}", error.suberror)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triple_fault_resets_and_what_hardware_refuses_is_a_fault() {
        assert_eq!(end_of(&VcpuExit::Shutdown), Exit::Reset);
        for exit in [VcpuExit::FailEntry(0x21, 3), VcpuExit::Nmi] {
            assert!(matches!(end_of(&exit), Exit::GuestFault(_)), "{exit:?}");
        }
    }
}
