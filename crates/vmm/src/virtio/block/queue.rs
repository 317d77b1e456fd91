//! One queue of a disk: takes requests, keeps to the rate, gives answers.

use super::{
    arrivals::Arrivals,
    backend::{BackendQueue, Operation, Outcome, Submission},
    config::{F_FLUSH, Geometry, QUEUE_SIZE, SECTOR},
    limiter::{LEAST_SLEEP, Limiter, Place},
    lookout::Lookout,
    refuser::Refuser,
    request::{Action, ID_LEN, Request, Status},
    stats::Counters,
    telling::Telling,
    timer::{timer, wait_readable},
    trouble::Trouble,
};
use crate::virtio::{
    chain::Pieces,
    device::Activation,
    interrupt::QueueInterrupt,
    ring::{BrokenRing, Ring, Used},
    worker::{Handler, Progress},
};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use vmm_sys_util::{
    eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd},
    timerfd::TimerFd,
};

/// Requests under way at a time.
pub const DEPTH: u32 = QUEUE_SIZE as u32;

/// Times in a row that new requests are looked for before others have their turn.
const ROUNDS: u32 = 32;

/// Number of each source.
const COMPLETIONS: usize = 0;
const TIMER: usize = 1;
const RETUNED: usize = 2;
const ROOM: usize = 3;
/// Between two looks whether the host has room for what waits for it.
const ROOM_AGAIN: Duration = Duration::from_millis(250);

/// A request the backend works on.
struct Pending {
    head: u16,
    status: Pieces,
    written: u32,
    operation: Operation,
    bytes: u64,
    /// When the guest put it up.
    arrived: u64,
    /// Whether the data is being made to last already.
    lasting: bool,
    /// What to try again when the host has room.
    again: Option<Submission>,
    /// Whether the host had none before.
    waits: bool,
}

/// A request whose time has not come.
struct Stalled {
    request: Pending,
    submission: Submission,
    since: u64,
}

struct Active {
    ring: Ring,
    interrupt: QueueInterrupt,
    /// The driver knows no flush: what it is told is written must last.
    write_through: bool,
}

/// What all queues of a disk share.
#[derive(Debug)]
pub struct DiskShared {
    /// Whole sectors; only ever more.
    pub sectors: AtomicU64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Queues.
    pub queues: u16,
    /// Serial number.
    pub id: [u8; ID_LEN],
    /// Rate over all queues.
    pub limiter: Limiter,
    /// What was done.
    pub counters: Counters,
    /// What the host does not let it do.
    pub trouble: Trouble,
}

impl DiskShared {
    /// What a driver is told.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.sectors.load(Ordering::Acquire),
            read_only: self.read_only,
            queues: self.queues,
        }
    }

    /// The disk has `bytes` now. Returns whether those are more than before.
    pub fn grown_to(&self, bytes: u64) -> bool {
        let sectors = bytes / SECTOR;
        self.sectors.fetch_max(sectors, Ordering::AcqRel) < sectors
    }
}

/// Serves one queue.
pub struct BlockQueue {
    disk: Arc<DiskShared>,
    backend: Box<dyn BackendQueue>,
    /// Takes the backend's place when the disk is taken away; made before, as it must not fail then.
    refuser: Option<Refuser>,
    timer: TimerFd,
    retuned: EventFd,
    place: Place,
    active: Option<Active>,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    stalled: Option<Stalled>,
    /// Slots of requests the host has no room for. They keep them, so that the guest cannot put up
    /// more than there are.
    roomless: Vec<usize>,
    room: TimerFd,
    arrivals: Arrivals,
    lookout: Lookout,
    telling: Telling,
    used: Vec<Used>,
    submitted: bool,
}

impl BlockQueue {
    /// A queue without a driver.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn new(disk: Arc<DiskShared>, backend: Box<dyn BackendQueue>) -> io::Result<Self> {
        let retuned = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let place = disk.limiter.join(retuned.try_clone()?);
        Ok(Self {
            disk,
            backend,
            refuser: Some(Refuser::new()?),
            timer: timer()?,
            retuned,
            place,
            active: None,
            pending: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH as usize).collect(),
            stalled: None,
            roomless: Vec::new(),
            room: timer()?,
            arrivals: Arrivals::default(),
            lookout: Lookout::new(),
            telling: Telling::new(),
            used: Vec::new(),
            submitted: false,
        })
    }

    /// Takes requests until there are none, the rate is used up, or the backend is full.
    fn take(&mut self) -> Result<Progress, BrokenRing> {
        self.lookout.end();
        self.backend.watch();
        for _ in 0..ROUNDS {
            if let Some(active) = &mut self.active {
                active.ring.disable_doorbell();
            }
            let (mut now, mut looks) = (self.disk.limiter.now(), 0);
            while self.stalled.is_none() && !self.free.is_empty() {
                let Some(active) = &mut self.active else { return Ok(self.idle()) };
                let position = active.ring.position();
                let Some(buffers) = active.ring.pop()? else {
                    // The guest can make it look as if there were more, but not for ever.
                    looks += 1;
                    if self.telling.waits(looks) && self.look_for(self.lookout.gather())? {
                        continue;
                    }
                    self.telling.ran_dry();
                    break;
                };
                if !self.disk.limiter.is_unlimited() {
                    now = self.disk.limiter.now();
                }
                let arrived = self.arrivals.of(position, now);
                let request = Request::parse(buffers, &self.disk.geometry())?;
                self.telling.took(request.bytes());
                self.accept(request, now, arrived);
                if self.telling.is_due() {
                    self.finish()?;
                    now = self.disk.limiter.now();
                }
            }
            self.finish()?;
            let blocked = self.stalled.is_some() || self.free.is_empty();
            let Some(active) = &mut self.active else { return Ok(self.idle()) };
            if blocked {
                self.arrivals.note(active.ring.available()?, self.disk.limiter.now());
                return Ok(self.idle());
            }
            if self.look_on()? {
                continue;
            }
            let Some(active) = &mut self.active else { return Ok(self.idle()) };
            if !active.ring.enable_doorbell()? {
                return Ok(self.idle());
            }
        }
        Ok(Progress::More)
    }

    /// Starts what was accepted and tells the guest of what is done.
    fn finish(&mut self) -> Result<(), BrokenRing> {
        self.telling.told();
        self.flush_submissions();
        // What the host has in memory is done as it is submitted: no event has to tell of it.
        if self.backend.has_completions() {
            self.reap();
            self.flush_submissions();
        }
        self.publish()
    }

    /// Looks for more for a while, where that is better than to sleep. Returns whether there is.
    fn look_on(&mut self) -> Result<bool, BrokenRing> {
        let Some(window) = self.lookout.begin() else { return Ok(false) };
        let found = self.look_for(window)?;
        if found {
            self.lookout.end();
        }
        Ok(found)
    }

    /// Looks for requests and completions. Returns whether there is one.
    fn look_for(&mut self, window: Duration) -> Result<bool, BrokenRing> {
        let Some(active) = &self.active else { return Ok(false) };
        let (position, start) = (active.ring.position(), Instant::now());
        loop {
            let found = active.ring.available()? != position
                || !self.telling.is_behind() && self.backend.has_completions();
            let took = start.elapsed();
            if found || took >= window {
                self.lookout.looked(took, window);
                return Ok(found);
            }
            std::hint::spin_loop();
        }
    }

    /// Leaves it to the backend's event to tell of completions.
    fn idle(&mut self) -> Progress {
        if self.backend.rest() { Progress::More } else { Progress::Idle }
    }

    fn accept(&mut self, request: Request, now: u64, arrived: u64) {
        let Request { head, status, writable_len, action } = request;
        match action {
            Action::Complete(outcome) => {
                self.disk.counters.error();
                self.answer(head, &status, 0, outcome);
            }
            Action::Identify(data) => {
                data.write(&self.disk.id);
                self.answer(head, &status, ID_LEN as u32, Status::Ok);
            }
            Action::Submit { operation, offset, len, data } => {
                let written = if operation == Operation::Read { writable_len } else { 0 };
                let request = Pending {
                    head,
                    status,
                    written,
                    operation,
                    bytes: len,
                    arrived,
                    lasting: false,
                    again: None,
                    waits: false,
                };
                let submission = Submission { operation, offset, len, data, tag: 0 };
                self.admit(request, submission, now);
            }
        }
    }

    /// Starts a request, or keeps it until the rate allows.
    fn admit(&mut self, request: Pending, submission: Submission, now: u64) {
        let moved = match request.operation {
            Operation::Read | Operation::Write => request.bytes,
            // A flush brings no load of its own: what it waits for has been counted.
            Operation::Flush => return self.launch(request, submission),
            Operation::Discard | Operation::WriteZeroes { .. } => 0,
        };
        match self.disk.limiter.ask(self.place, now, moved) {
            Ok(()) => self.launch(request, submission),
            Err(wait) => {
                self.arm(wait.max(LEAST_SLEEP));
                self.stalled = Some(Stalled { request, submission, since: now });
            }
        }
    }

    /// Looks whether the stalled request may go.
    fn retry(&mut self) {
        let Some(stalled) = self.stalled.take() else { return };
        let now = self.disk.limiter.now();
        match self.disk.limiter.again(self.place, now) {
            Ok(()) => {
                self.disk.counters.throttled(now.saturating_sub(stalled.since));
                self.launch(stalled.request, stalled.submission);
            }
            Err(wait) => {
                self.arm(wait.max(LEAST_SLEEP));
                self.stalled = Some(stalled);
            }
        }
    }

    fn arm(&mut self, wait: u64) {
        if let Err(error) = self.timer.reset(Duration::from_nanos(wait.max(1)), None) {
            // Without a timer, going on at once is the only way never to stall.
            crate::say::report(format_args!("disk limiter timer: {error}"));
            let _ = self.retuned.write(1);
        }
    }

    fn launch(&mut self, mut request: Pending, mut submission: Submission) {
        let Some(slot) = self.free.pop() else {
            return self.answer(request.head, &request.status, 0, Status::IoError);
        };
        submission.tag = slot as u64;
        request.again = submission.again();
        self.start_in(slot, request, submission);
    }

    fn start_in(&mut self, slot: usize, request: Pending, submission: Submission) {
        // SAFETY: the pieces lie in guest memory, which the ring keeps mapped until `stop`, and
        // `stop` waits for every completion.
        if unsafe { self.backend.push(submission) } {
            self.pending[slot] = Some(request);
            self.submitted = true;
        } else {
            self.free.push(slot);
            self.disk.trouble.waited(usize::from(request.waits));
            self.disk.counters.error();
            self.answer(request.head, &request.status, 0, Status::IoError);
        }
    }

    /// Tries again what the host had no room for.
    fn try_roomless(&mut self) {
        for slot in std::mem::take(&mut self.roomless) {
            let Some(request) = self.pending[slot].take() else { continue };
            match request.again.as_ref().and_then(Submission::again) {
                Some(submission) => self.start_in(slot, request, submission),
                None => self.free.push(slot),
            }
        }
    }

    /// Keeps a request until the host has room; false if it cannot be tried again.
    fn keep_roomless(&mut self, slot: usize, why: &str) -> bool {
        let Some(request) = self.pending[slot].as_mut().filter(|r| r.again.is_some()) else {
            return false;
        };
        if !request.waits {
            request.waits = true;
            self.disk.trouble.waits();
            crate::say::report(format_args!("disk: {why}; the request waits for room"));
        }
        self.roomless.push(slot);
        if let Err(error) = self.room.reset(ROOM_AGAIN, None) {
            crate::say::report(format_args!("disk: timer: {error}"));
            self.roomless.pop();
            return false;
        }
        true
    }

    /// The driver does not want its requests any more.
    fn forget_roomless(&mut self) {
        for slot in std::mem::take(&mut self.roomless) {
            if self.pending[slot].take().is_some() {
                self.free.push(slot);
                self.disk.trouble.waited(1);
            }
        }
        let _ = self.room.clear();
    }

    fn flush_submissions(&mut self) {
        if std::mem::take(&mut self.submitted)
            && let Err(error) = self.backend.submit()
        {
            crate::say::report(format_args!("disk: cannot submit requests: {error}"));
            // They are still in the backend's queue: try again soon.
            self.submitted = true;
            self.arm(1_000_000);
        }
    }

    fn reap(&mut self) {
        let now = self.disk.limiter.now();
        while let Some((tag, outcome)) = self.backend.pop() {
            let Some(slot) = usize::try_from(tag).ok().filter(|&slot| slot < self.pending.len())
            else {
                continue;
            };
            if let Outcome::NoRoom(why) = &outcome
                && self.keep_roomless(slot, why)
            {
                continue;
            }
            let Some(mut request) = self.pending[slot].take() else { continue };
            self.free.push(slot);
            if std::mem::take(&mut request.waits) {
                self.disk.trouble.waited(1);
            }
            let success = outcome == Outcome::Done;
            if let Outcome::NoRoom(why) | Outcome::Failed(why) = outcome {
                crate::say::report(format_args!("disk: {why}"));
                self.disk.trouble.failed(why);
            }
            if success && !request.lasting && self.must_last(request.operation) {
                self.launch(Pending { lasting: true, ..request }, Submission::flush());
                continue;
            }
            let took = now.saturating_sub(request.arrived);
            self.disk.counters.completed(request.operation, request.bytes, success, took);
            let status = if success { Status::Ok } else { Status::IoError };
            let written = if success { request.written } else { 0 };
            self.answer(request.head, &request.status, written, status);
        }
    }

    fn must_last(&self, operation: Operation) -> bool {
        let changes = !matches!(operation, Operation::Read | Operation::Flush);
        changes && self.active.as_ref().is_some_and(|active| active.write_through)
    }

    fn answer(&mut self, head: u16, status: &Pieces, written: u32, outcome: Status) {
        status.write(&[outcome as u8]);
        self.used.push(Used { head, len: written.saturating_add(1) });
    }

    fn publish(&mut self) -> Result<(), BrokenRing> {
        let Some(active) = &mut self.active else {
            self.used.clear();
            return Ok(());
        };
        if self.used.is_empty() {
            return Ok(());
        }
        active.ring.publish(&self.used)?;
        self.used.clear();
        if active.ring.should_interrupt()? {
            active.interrupt.signal();
        }
        Ok(())
    }

    /// Waits until nothing is under way.
    fn drain(&mut self) {
        while self.in_flight() {
            self.flush_submissions();
            if !self.backend.rest() {
                wait_readable(self.backend.event());
                self.backend.clear_event();
            }
            self.reap();
        }
        // The driver still learns of it, if its rings are sound.
        let _ = self.publish();
        self.used.clear();
    }

    fn in_flight(&self) -> bool {
        self.free.len() + self.roomless.len() < self.pending.len()
    }
}

impl Handler for BlockQueue {
    fn sources(&self) -> Vec<(RawFd, bool)> {
        vec![
            (self.backend.event(), false),
            (self.timer.as_raw_fd(), false),
            (self.retuned.as_raw_fd(), false),
            (self.room.as_raw_fd(), false),
        ]
    }

    fn start(&mut self, activation: Activation) -> Result<(), BrokenRing> {
        let Some(queue) = activation.queues.into_iter().next() else { return Ok(()) };
        let ring = Ring::new(queue.queue, activation.memory)?;
        let write_through = activation.features & F_FLUSH == 0;
        self.active = Some(Active { ring, interrupt: queue.interrupt, write_through });
        Ok(())
    }

    fn doorbell(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        self.take()
    }

    fn ready(&mut self, number: usize) -> Result<Progress, BrokenRing> {
        match number {
            COMPLETIONS => {
                self.backend.watch();
                self.backend.clear_event();
                self.reap();
            }
            TIMER => {
                // Not there any more if the queue was stopped meanwhile.
                let _ = self.timer.wait();
                self.retry();
            }
            RETUNED => {
                let _ = self.retuned.read();
                self.retry();
            }
            ROOM => {
                let _ = self.room.wait();
                self.try_roomless();
            }
            _ => {}
        }
        self.take()
    }

    fn abandon(&mut self) {
        if let Some(refuser) = self.refuser.take() {
            self.drain();
            self.backend = Box::new(refuser);
            self.try_roomless();
            self.retry();
            self.flush_submissions();
        }
    }

    fn stop(&mut self) {
        if self.stalled.take().is_some() {
            self.disk.limiter.cancel(self.place);
        }
        let _ = self.timer.clear();
        let _ = self.retuned.read();
        self.drain();
        self.forget_roomless();
        self.arrivals.clear();
        self.active = None;
    }
}
