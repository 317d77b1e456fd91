//! The thread that moves the console's bytes.

use super::{ConsoleLog, Output, client::Client, terminal::Escape};
use crate::{
    events::{Events, Exit},
    legacy::serial::SerialPort,
    say::report,
    thread::{self, Handle, ThreadKind},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    collections::VecDeque,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::net::UnixListener,
    },
    sync::Arc,
    time::Duration,
};

/// Output is moved in batches this far apart, so that a booting guest's every byte is not a wake-up.
const BATCH_MS: u8 = 2;
/// Bytes of input that wait for the guest.
const INPUT_LIMIT: usize = 4096;

/// Where the console's bytes go and come from.
#[derive(Debug)]
pub struct Console {
    /// File that gets every byte.
    pub log: Option<ConsoleLog>,
    /// Socket clients attach to.
    pub listener: Option<UnixListener>,
    /// Also this process's stdin and stdout.
    pub stdio: bool,
}

/// The running thread.
#[derive(Debug)]
pub struct ConsoleThread {
    output: Output,
    handle: Handle<()>,
}

impl ConsoleThread {
    /// Moves the last bytes and ends the thread.
    pub fn finish(self) {
        self.output.close();
        self.handle.join();
    }
}

struct State {
    console: Console,
    output: Output,
    port: Arc<SerialPort>,
    client: Option<Client>,
    events: Events,
    stdin: bool,
    escape: Escape,
    input: VecDeque<u8>,
    /// Whether the UART was in use when there was input for it.
    uart_busy: bool,
    /// Whether the last batch could not be recorded.
    log_failed: bool,
}

impl Console {
    /// Starts moving bytes between `port`, whose output is `output`, and the outside.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn start(
        self,
        output: Output,
        port: Arc<SerialPort>,
        events: Events,
    ) -> io::Result<ConsoleThread> {
        if let Some(listener) = &self.listener {
            listener.set_nonblocking(true)?;
        }
        let stdin = self.stdio;
        let mut state = State {
            console: self,
            output: output.clone(),
            port,
            client: None,
            events,
            stdin,
            escape: Escape::default(),
            input: VecDeque::new(),
            uart_busy: false,
            log_failed: false,
        };
        let handle = thread::spawn(ThreadKind::Console, "console", move || state.run())?;
        Ok(ConsoleThread { output, handle })
    }
}

impl State {
    fn run(&mut self) {
        loop {
            let closing = self.output.closing();
            self.move_output();
            self.move_input();
            if closing {
                return;
            }
            if self.wait().is_err() {
                // Polling own descriptors does not fail; if it does, do not spin.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        // SAFETY: the eventfd belongs to `self.output` and outlives the borrow.
        let wake = unsafe { BorrowedFd::borrow_raw(self.output.shared.wake.as_raw_fd()) };
        let room = self.input.len() < INPUT_LIMIT;
        let interest = |wanted: bool| if wanted { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(wake, PollFlags::POLLIN)];
        let listener = self.console.listener.as_ref().map(|listener| {
            fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let client = self.client.as_ref().map(|client| {
            let mut flags = interest(room);
            flags.set(PollFlags::POLLOUT, client.is_behind());
            fds.push(PollFd::new(client.fd(), flags));
            fds.len() - 1
        });
        let stdin_handle = io::stdin();
        let stdin = (self.stdin && room).then(|| {
            fds.push(PollFd::new(stdin_handle.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        // Nobody says when a busy UART is free again: look soon.
        let timeout = if self.uart_busy { PollTimeout::from(BATCH_MS) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events = |index: Option<usize>| {
            index.and_then(|index| fds[index].revents()).unwrap_or(PollFlags::empty())
        };
        let (listener, client, stdin, output) =
            (events(listener), events(client), events(stdin), events(Some(0)));
        drop(fds);
        if !client.is_empty() {
            self.serve_client(client);
        }
        if !listener.is_empty() {
            self.accept();
        }
        if !stdin.is_empty() {
            self.read_stdin();
        }
        if !output.is_empty() && !self.output.closing() {
            std::thread::sleep(Duration::from_millis(BATCH_MS.into()));
        }
        Ok(())
    }

    /// A new client takes the console over; the old one sees its connection end.
    fn accept(&mut self) {
        if let Some(listener) = &self.console.listener
            && let Ok((stream, _)) = listener.accept()
            && let Ok(client) = Client::new(stream)
        {
            self.client = Some(client);
            self.input.clear();
        }
    }

    fn serve_client(&mut self, events: PollFlags) {
        let Some(client) = &mut self.client else { return };
        let mut alive = true;
        if events.contains(PollFlags::POLLOUT) {
            alive = client.send();
        }
        if alive && events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            let mut typed = [0; 512];
            match client.receive(&mut typed) {
                Some(len) => self.input.extend(&typed[..len]),
                None => alive = false,
            }
        }
        if !alive {
            self.client = None;
        }
    }

    fn read_stdin(&mut self) {
        let mut typed = [0; 512];
        // Not through the standard library's buffer: what it holds, poll would not tell of.
        match nix::unistd::read(io::stdin(), &mut typed) {
            Ok(0) => self.stdin = false,
            Ok(len) => {
                if self.escape.filter(&typed[..len], &mut self.input) {
                    self.events.exit(Exit::Terminated);
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => self.stdin = false,
        }
    }

    fn move_output(&mut self) {
        let mut output = self.output.take();
        if output.is_empty() {
            return;
        }
        if let Some(log) = &mut self.console.log {
            let appended = log.append(output.make_contiguous());
            // Said when it begins: a full disk refuses every batch there is.
            if let Err(error) = &appended
                && !self.log_failed
            {
                report(format_args!(
                    "console log: {error}; until that is mended the guest's output is not recorded"
                ));
            }
            self.log_failed = appended.is_err();
        }
        if self.console.stdio {
            let mut stdout = io::stdout().lock();
            if stdout.write_all(output.make_contiguous()).and_then(|()| stdout.flush()).is_err() {
                self.console.stdio = false;
            }
        }
        if let Some(client) = &mut self.client
            && !client.push(&output)
        {
            self.client = None;
        }
    }

    fn move_input(&mut self) {
        if self.input.is_empty() {
            self.uart_busy = false;
            return;
        }
        let taken = self.port.type_in(self.input.make_contiguous());
        self.uart_busy = taken.is_none();
        self.input.drain(..taken.unwrap_or(0));
    }
}
