//! What happens to the machine: states for those who watch, and the reason of its end.

use api::vmm::{Event, ExitCode, VmState};
use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use vmm_sys_util::eventfd::EventFd;

/// Events kept for those who come late or read slowly.
const BACKLOG: usize = 64;

/// Why the machine ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off.
    Shutdown,
    /// Somebody asked the process to end the machine.
    Terminated,
    /// The guest asked for a reset, or fell over.
    Reset,
    /// The guest did what no machine survives.
    GuestFault(String),
    /// The host failed the machine.
    HostFault(String),
}

impl Exit {
    /// Exit code of the process.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Shutdown | Self::Terminated => ExitCode::Shutdown,
            Self::Reset => ExitCode::Reset,
            Self::GuestFault(_) => ExitCode::GuestFault,
            Self::HostFault(_) => ExitCode::Host,
        }
    }

    fn state(&self) -> VmState {
        match self {
            Self::Shutdown | Self::Terminated => VmState::Shutdown,
            Self::Reset => VmState::Reset,
            Self::GuestFault(_) | Self::HostFault(_) => VmState::Failed,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => write!(f, "the guest powered off"),
            Self::Terminated => write!(f, "terminated on request"),
            Self::Reset => write!(f, "the guest reset itself"),
            Self::GuestFault(what) => write!(f, "guest fault: {what}"),
            Self::HostFault(what) => write!(f, "host fault: {what}"),
        }
    }
}

#[derive(Default)]
struct State {
    state: VmState,
    sequence: u64,
    recent: VecDeque<Event>,
    watchers: Vec<EventFd>,
    exit: Option<Exit>,
}

impl State {
    fn push(&mut self, state: VmState, message: &str) {
        self.state = state;
        self.sequence += 1;
        let event = Event {
            state: state.into(),
            message: message.to_owned(),
            unix_ms: unix_ms(),
            sequence: self.sequence,
        };
        if self.recent.len() == BACKLOG {
            self.recent.pop_front();
        }
        self.recent.push_back(event);
        for watcher in &self.watchers {
            // A full counter is as good as one: the watcher is awake either way.
            let _ = watcher.write(1);
        }
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// The machine's state and its history. Cloning shares it.
#[derive(Clone, Default)]
pub struct Events {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Events {
    /// A machine in state `Starting`.
    pub fn new() -> Self {
        let events = Self::default();
        events.publish(VmState::Starting, "the machine is being set up");
        events
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters `state` and wakes everybody who watches. A machine that ends stays in the state its
    /// end gave it.
    pub fn publish(&self, state: VmState, message: &str) {
        let mut shared = self.lock();
        if shared.exit.is_none() {
            shared.push(state, message);
        }
    }

    /// The state entered last.
    pub fn state(&self) -> VmState {
        self.lock().state
    }

    /// Writes to `watcher` at each new event.
    ///
    /// # Errors
    /// If no descriptor can be had.
    pub fn watch(&self, watcher: &EventFd) -> io::Result<()> {
        let watcher = watcher.try_clone()?;
        self.lock().watchers.push(watcher);
        Ok(())
    }

    /// Recent events after number `sequence`. A gap in the numbers says that some were dropped.
    pub fn since(&self, sequence: u64) -> Vec<Event> {
        let shared = self.lock();
        shared.recent.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    /// Ends the machine. The first reason counts.
    pub fn exit(&self, exit: Exit) {
        let mut shared = self.lock();
        if shared.exit.is_some() {
            return;
        }
        shared.push(exit.state(), &exit.to_string());
        shared.exit = Some(exit);
        self.shared.1.notify_all();
    }

    /// Why the machine ends, once it does.
    pub fn exiting(&self) -> Option<Exit> {
        self.lock().exit.clone()
    }

    /// Sleeps until the machine ends.
    pub fn wait_for_exit(&self) -> Exit {
        let mut shared = self.lock();
        loop {
            if let Some(exit) = &shared.exit {
                return exit.clone();
            }
            shared = self.shared.1.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        f.debug_struct("Events")
            .field("state", &shared.state)
            .field("exit", &shared.exit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn the_first_reason_to_exit_counts_and_the_state_is_final() {
        let events = Events::new();
        assert_eq!(events.exiting(), None);
        events.exit(Exit::Reset);
        events.exit(Exit::Shutdown);
        events.publish(VmState::Running, "late");
        assert_eq!(events.wait_for_exit(), Exit::Reset);
        assert_eq!(events.state(), VmState::Reset);
        assert_eq!(events.since(1).len(), 1);
    }

    #[test]
    fn watchers_are_woken_and_see_what_is_new() {
        let events = Events::new();
        let watcher = EventFd::new(EFD_NONBLOCK).unwrap();
        events.watch(&watcher).unwrap();
        assert!(watcher.read().is_err());
        events.publish(VmState::Running, "a");
        events.publish(VmState::Paused, "b");
        assert_eq!(watcher.read().unwrap(), 2);
        let seen: Vec<_> =
            events.since(1).iter().map(|event| (event.sequence, event.state())).collect();
        assert_eq!(seen, [(2, VmState::Running), (3, VmState::Paused)]);
    }

    #[test]
    fn history_is_bounded_and_keeps_the_newest() {
        let events = Events::new();
        for _ in 0..1000 {
            events.publish(VmState::Running, "x");
        }
        let recent = events.since(0);
        assert_eq!(recent.len(), BACKLOG);
        assert_eq!(recent.last().map(|event| event.sequence), Some(1001));
    }
}
