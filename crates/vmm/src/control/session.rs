//! One client of the control socket.

use super::{
    Files, MAX_FILES, Service, files,
    frame::{Decoder, encode},
    refusal,
};
use crate::{
    events::Events,
    thread::{self, ThreadKind},
};
use api::vmm::{Ack, Request, Response, request::Op, response::Result as Answer};
use std::{
    collections::VecDeque,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, mpsc},
};
use vmm_sys_util::eventfd::EventFd;

/// While this many bytes wait for the client, nothing more is read from it or put to it.
const BACKLOG_LIMIT: usize = 256 << 10;

pub(super) struct Session {
    stream: UnixStream,
    decoder: Decoder,
    /// Descriptors of requests that are not decoded yet, those of one message together.
    files: VecDeque<Files>,
    /// The request that is being performed in a thread of its own, and its answer to come.
    pending: Option<(u64, mpsc::Receiver<Answer>)>,
    backlog: VecDeque<u8>,
    /// Number of the last event sent to a client that subscribed.
    subscribed: Option<u64>,
    closing: bool,
}

impl Session {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            files: VecDeque::new(),
            pending: None,
            backlog: VecDeque::new(),
            subscribed: None,
            closing: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn wants_to_read(&self) -> bool {
        !self.closing && self.pending.is_none() && self.backlog.len() < BACKLOG_LIMIT
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Reads and answers; `false` if the client is gone or sends what is no request.
    pub(super) fn receive(&mut self, desk: &Desk) -> bool {
        let mut bytes = [0; 4096];
        match files::receive(&self.stream, &mut bytes) {
            Ok((0, _)) => return false,
            Ok((len, files)) => {
                self.decoder.push(&bytes[..len]);
                if !files.is_empty() {
                    self.files.push_back(files);
                }
            }
            Err(error) if would_block(&error) => return true,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return self.break_off("more descriptors came than this process may have open");
            }
            Err(_) => return false,
        }
        self.work(desk)
    }

    /// Answers what has been received, until a request takes long.
    fn work(&mut self, desk: &Desk) -> bool {
        while self.pending.is_none() && !self.closing {
            match self.decoder.next_message::<Request>() {
                Ok(Some(request)) => self.answer(request, desk),
                Ok(None) => break,
                Err(error) => return self.break_off(&error.to_string()),
            }
        }
        if self.decoder.is_empty() {
            // No frame has begun that they could belong to.
            self.files.clear();
        } else if self.files.iter().map(Files::len).sum::<usize>() > MAX_FILES {
            return self.break_off(&format!("a request has at most {MAX_FILES} descriptors"));
        }
        self.send()
    }

    fn answer(&mut self, request: Request, desk: &Desk) {
        let Request { id, op } = request;
        let answer = match op {
            None => Answer::Error(refusal("InvalidRequest", "the request names no operation")),
            Some(Op::Subscribe(_)) => {
                self.subscribed.get_or_insert(0);
                Answer::Ack(Ack {})
            }
            Some(op) => {
                let takes_files = matches!(
                    op,
                    Op::AttachDisk(_) | Op::SwitchLayers(_) | Op::AttachNic(_) | Op::SwitchTaps(_)
                );
                let files = if takes_files { self.files.pop_front() } else { None };
                let files = files.unwrap_or_default();
                if files.len() > MAX_FILES {
                    let message = format!("{} descriptors; send at most {MAX_FILES}", files.len());
                    Answer::Error(refusal("InvalidArgument", message))
                } else if desk.service.takes_long(&op) {
                    match desk.perform_aside(op, files) {
                        Ok(answer) => {
                            self.pending = Some((id, answer));
                            return;
                        }
                        Err(error) => {
                            Answer::Error(refusal("Io", format!("no thread for it: {error}")))
                        }
                    }
                } else {
                    desk.service.perform(&op, files).unwrap_or_else(Answer::Error)
                }
            }
        };
        self.put(id, answer);
        self.put_events(&desk.events);
    }

    /// Takes the answer that was waited for, if it is there, and goes on with what came meanwhile;
    /// `false` as for [`Self::receive`].
    pub(super) fn collect(&mut self, desk: &Desk) -> bool {
        let Some((id, pending)) = &self.pending else { return true };
        let (id, answer) = match pending.try_recv() {
            Ok(answer) => (*id, answer),
            Err(mpsc::TryRecvError::Empty) => return true,
            Err(mpsc::TryRecvError::Disconnected) => {
                (*id, Answer::Error(refusal("Io", "its thread ended without an answer")))
            }
        };
        self.pending = None;
        self.put(id, answer);
        self.put_events(&desk.events);
        self.work(desk)
    }

    fn break_off(&mut self, problem: &str) -> bool {
        self.put(0, Answer::Error(refusal("InvalidRequest", problem)));
        self.files.clear();
        self.closing = true;
        self.send()
    }

    fn put(&mut self, id: u64, answer: Answer) {
        self.backlog.extend(encode(&Response { id, result: Some(answer) }));
    }

    /// Queues the events a subscriber has not seen.
    pub(super) fn put_events(&mut self, events: &Events) {
        let Some(mut seen) = self.subscribed else { return };
        if self.backlog.len() >= BACKLOG_LIMIT {
            return;
        }
        for event in events.since(seen) {
            seen = event.sequence;
            self.put(0, Answer::Event(event));
        }
        self.subscribed = Some(seen);
    }

    /// Sends what the client takes; `false` if it is gone or was told its last word.
    pub(super) fn send(&mut self) -> bool {
        while !self.backlog.is_empty() {
            match self.stream.write(self.backlog.as_slices().0) {
                Ok(0) => return false,
                Ok(sent) => drop(self.backlog.drain(..sent)),
                Err(error) if would_block(&error) => return true,
                Err(_) => return false,
            }
        }
        !self.closing
    }
}

/// Whom sessions put requests to.
pub(super) struct Desk {
    pub(super) service: Arc<dyn Service>,
    pub(super) events: Events,
    /// Wakes the thread that serves the sessions.
    pub(super) wake: Arc<EventFd>,
}

impl Desk {
    fn perform_aside(&self, op: Op, files: Files) -> io::Result<mpsc::Receiver<Answer>> {
        /// Wakes the sessions however the thread ends.
        struct Wake(Arc<EventFd>);
        impl Drop for Wake {
            fn drop(&mut self) {
                let _ = self.0.write(1);
            }
        }
        let (answer, pending) = mpsc::channel();
        let service = Arc::clone(&self.service);
        let wake = Wake(Arc::clone(&self.wake));
        thread::spawn(ThreadKind::Device, "request", move || {
            // Woken last: when the answer is there, or its sender gone.
            let _wake = wake;
            let answer = answer;
            let _ = answer.send(service.perform(&op, files).unwrap_or_else(Answer::Error));
        })?;
        Ok(pending)
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
