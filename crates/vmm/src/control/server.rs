//! The thread that serves the control socket and the process's signals.

use super::{
    Service,
    session::{Desk, Session},
};
use crate::{
    events::{Events, Exit},
    thread::{self, Handle, ThreadKind},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use std::{
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::net::UnixListener,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Clients served at once; more wait to be accepted.
const MAX_SESSIONS: usize = 16;
/// At the end, clients get this long to take their last events.
const FAREWELL: Duration = Duration::from_millis(200);

/// What the thread listens to. Made before any other thread, for signals are blocked here for all.
#[derive(Debug)]
pub struct Listeners {
    socket: Option<UnixListener>,
    signals: SignalFd,
}

impl Listeners {
    /// Takes a bound socket, and SIGTERM and SIGINT.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(socket: Option<UnixListener>) -> io::Result<Self> {
        if let Some(socket) = &socket {
            socket.set_nonblocking(true)?;
        }
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { socket, signals })
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn start(self, service: Arc<dyn Service>, events: Events) -> io::Result<ControlThread> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        events.watch(&wake)?;
        let closing = Arc::new(AtomicBool::new(false));
        let mut server = Server {
            listeners: self,
            sessions: Vec::new(),
            closing: Arc::clone(&closing),
            desk: Desk { service, events, wake: Arc::clone(&wake) },
        };
        let handle = thread::spawn(ThreadKind::Control, "control", move || server.run())?;
        Ok(ControlThread { wake, closing, handle })
    }
}

/// The running thread.
#[derive(Debug)]
pub struct ControlThread {
    wake: Arc<EventFd>,
    closing: Arc<AtomicBool>,
    handle: Handle<()>,
}

impl ControlThread {
    /// Tells clients the last events and ends the thread.
    pub fn finish(self) {
        self.closing.store(true, Ordering::Release);
        let _ = self.wake.write(1);
        self.handle.join();
    }
}

struct Server {
    listeners: Listeners,
    sessions: Vec<Session>,
    closing: Arc<AtomicBool>,
    desk: Desk,
}

impl Server {
    fn run(&mut self) {
        loop {
            let closing = self.closing.load(Ordering::Acquire);
            let _ = self.desk.wake.read();
            let desk = &self.desk;
            self.sessions.retain_mut(|session| {
                session.put_events(&desk.events);
                session.collect(desk) && session.send()
            });
            if closing {
                self.say_farewell();
                return;
            }
            if self.serve(PollTimeout::NONE).is_err() {
                // Polling own descriptors does not fail; if it does, do not spin.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn say_farewell(&mut self) {
        let end = std::time::Instant::now() + FAREWELL;
        while self.sessions.iter().any(Session::wants_to_write) && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            self.sessions.retain_mut(Session::send);
        }
    }

    fn serve(&mut self, timeout: PollTimeout) -> io::Result<()> {
        // SAFETY: the eventfd belongs to `self` and outlives the borrow.
        let wake = unsafe { BorrowedFd::borrow_raw(self.desk.wake.as_raw_fd()) };
        let mut fds = vec![
            PollFd::new(wake, PollFlags::POLLIN),
            PollFd::new(self.listeners.signals.as_fd(), PollFlags::POLLIN),
        ];
        let fixed = fds.len();
        for session in &self.sessions {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, session.wants_to_read());
            flags.set(PollFlags::POLLOUT, session.wants_to_write());
            fds.push(PollFd::new(session.fd(), flags));
        }
        if self.sessions.len() < MAX_SESSIONS
            && let Some(socket) = &self.listeners.socket
        {
            fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> =
            fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(fds);
        if !ready[1].is_empty() {
            self.take_signals();
        }
        let sessions = self.sessions.len();
        let mut index = fixed;
        let desk = &self.desk;
        self.sessions.retain_mut(|session| {
            let ready = ready[index];
            index += 1;
            let mut alive = true;
            if ready.contains(PollFlags::POLLOUT) {
                alive = session.send();
            }
            if alive && ready.contains(PollFlags::POLLIN) {
                alive = session.receive(desk);
            } else if ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                alive = false;
            }
            alive
        });
        if ready.get(fixed + sessions).is_some_and(|ready| !ready.is_empty()) {
            self.accept();
        }
        Ok(())
    }

    fn take_signals(&mut self) {
        while let Ok(Some(_)) = self.listeners.signals.read_signal() {
            self.desk.events.exit(Exit::Terminated);
        }
    }

    fn accept(&mut self) {
        if let Some(socket) = &self.listeners.socket
            && let Ok((stream, _)) = socket.accept()
            && let Ok(session) = Session::new(stream)
        {
            self.sessions.push(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Files, client::Client, refusal};
    use api::vmm::{
        Ack, Error, Flush, PowerButton, Subscribe, VmState, request::Op, response::Result as Answer,
    };
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    struct OnlyFlush;

    impl Service for OnlyFlush {
        fn perform(&self, op: &Op, _files: Files) -> Result<Answer, Error> {
            match op {
                Op::Flush(_) => Ok(Answer::Ack(Ack {})),
                _ => Err(refusal("InvalidState", "not now")),
            }
        }
    }

    fn serve() -> (tempfile::TempDir, std::path::PathBuf, Events, ControlThread) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let events = Events::new();
        let listeners = Listeners::new(Some(UnixListener::bind(&path).unwrap())).unwrap();
        let thread = listeners.start(Arc::new(OnlyFlush), events.clone()).unwrap();
        (dir, path, events, thread)
    }

    #[test]
    fn requests_are_answered_and_refused_and_events_pushed() {
        let (_dir, path, events, thread) = serve();
        let mut client = Client::connect(&path).unwrap();
        assert!(matches!(client.call(Op::Flush(Flush {})), Ok(Answer::Ack(_))));
        let refused = client.call(Op::PowerButton(PowerButton {})).unwrap_err();
        assert!(refused.to_string().contains("InvalidState"), "{refused}");
        client.call(Op::Subscribe(Subscribe {})).unwrap();
        assert_eq!(client.next_event().unwrap().unwrap().state(), VmState::Starting);
        events.publish(VmState::Running, "up");
        assert_eq!(client.next_event().unwrap().unwrap().message, "up");
        events.exit(Exit::Reset);
        thread.finish();
        assert_eq!(client.next_event().unwrap().unwrap().state(), VmState::Reset);
        assert!(client.next_event().unwrap().is_none());
    }

    #[test]
    fn a_client_that_sends_garbage_is_told_and_let_go_and_others_are_served() {
        let (_dir, path, _events, thread) = serve();
        let mut garbage = UnixStream::connect(&path).unwrap();
        garbage.write_all(&[0xff; 64]).unwrap();
        let mut last_words = Vec::new();
        garbage.read_to_end(&mut last_words).unwrap();
        assert!(!last_words.is_empty());
        let _idle: Vec<_> =
            (0..MAX_SESSIONS - 1).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut client = Client::connect(&path).unwrap();
        assert!(client.call(Op::Flush(Flush {})).is_ok());
        thread.finish();
    }

    #[test]
    fn a_client_that_asks_and_never_reads_does_not_stop_the_others() {
        let (_dir, path, _events, thread) = serve();
        let mut deaf = UnixStream::connect(&path).unwrap();
        deaf.set_nonblocking(true).unwrap();
        let request = super::super::frame::encode(&api::vmm::Request {
            id: 1,
            op: Some(Op::PowerButton(PowerButton {})),
        });
        let flood = request.repeat(1000);
        for _ in 0..1000 {
            let _ = deaf.write(&flood);
        }
        let mut client = Client::connect(&path).unwrap();
        assert!(client.call(Op::Flush(Flush {})).is_ok());
        thread.finish();
    }

    /// Answers a flush when it is let go.
    struct Slow(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl Service for Slow {
        fn takes_long(&self, op: &Op) -> bool {
            matches!(op, Op::Flush(_))
        }

        fn perform(&self, op: &Op, _files: Files) -> Result<Answer, Error> {
            if matches!(op, Op::Flush(_)) {
                self.0.lock().unwrap().recv().unwrap();
            }
            Ok(Answer::Ack(Ack {}))
        }
    }

    #[test]
    fn a_request_that_takes_long_keeps_its_client_waiting_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (go_on, waiting) = std::sync::mpsc::channel();
        let listeners = Listeners::new(Some(UnixListener::bind(&path).unwrap())).unwrap();
        let service = Arc::new(Slow(waiting.into()));
        let thread = listeners.start(service, Events::new()).unwrap();
        let mut waits = UnixStream::connect(&path).unwrap();
        for (id, op) in [(1, Op::Flush(Flush {})), (2, Op::PowerButton(PowerButton {}))] {
            let request = api::vmm::Request { id, op: Some(op) };
            waits.write_all(&super::super::frame::encode(&request)).unwrap();
        }
        let mut gone = UnixStream::connect(&path).unwrap();
        let request = api::vmm::Request { id: 1, op: Some(Op::Flush(Flush {})) };
        gone.write_all(&super::super::frame::encode(&request)).unwrap();
        drop(gone);
        for _ in 0..3 {
            let mut client = Client::connect(&path).unwrap();
            client.call(Op::PowerButton(PowerButton {})).unwrap();
        }
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        let mut answers = Vec::new();
        let mut decoder = super::super::frame::Decoder::default();
        while answers.len() < 2 {
            let mut bytes = [0; 64];
            let len = waits.read(&mut bytes).unwrap();
            decoder.push(&bytes[..len]);
            while let Some(answer) = decoder.next_message::<api::vmm::Response>().unwrap() {
                answers.push(answer.id);
            }
        }
        assert_eq!(answers, [1, 2], "in order");
        thread.finish();
    }
}
