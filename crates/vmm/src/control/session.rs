//! One client of the control socket.

use super::{
    Service,
    frame::{Decoder, encode},
    refusal,
};
use crate::events::Events;
use api::vmm::{Ack, Request, Response, request::Op, response::Result as Answer};
use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

/// While this many bytes wait for the client, nothing more is read from it or put to it.
const BACKLOG_LIMIT: usize = 256 << 10;

pub(super) struct Session {
    stream: UnixStream,
    decoder: Decoder,
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
            backlog: VecDeque::new(),
            subscribed: None,
            closing: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn wants_to_read(&self) -> bool {
        !self.closing && self.backlog.len() < BACKLOG_LIMIT
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Reads and answers; `false` if the client is gone or sends what is no request.
    pub(super) fn receive(&mut self, service: &dyn Service, events: &Events) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(len) => self.decoder.push(&bytes[..len]),
            Err(error) if would_block(&error) => return true,
            Err(_) => return false,
        }
        loop {
            match self.decoder.next_message::<Request>() {
                Ok(Some(request)) => self.answer(&request, service, events),
                Ok(None) => return self.send(),
                Err(error) => {
                    let error = refusal("InvalidRequest", error.to_string());
                    self.put(0, Answer::Error(error));
                    self.closing = true;
                    return self.send();
                }
            }
        }
    }

    fn answer(&mut self, request: &Request, service: &dyn Service, events: &Events) {
        let answer = match &request.op {
            None => Answer::Error(refusal("InvalidRequest", "the request names no operation")),
            Some(Op::Subscribe(_)) => {
                self.subscribed.get_or_insert(0);
                Answer::Ack(Ack {})
            }
            Some(op) => service.perform(op).unwrap_or_else(Answer::Error),
        };
        self.put(request.id, answer);
        self.put_events(events);
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

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
