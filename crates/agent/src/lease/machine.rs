//! The protocol without its files: what to ask of the shared directory next, and what follows from
//! the answer. Times are this host's own, from any clock that never stands still.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Times of a lease. All hosts that share it must have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// For so long after a look a holder may use what it has.
    pub hold: Duration,
    /// So much later it has certainly stopped.
    pub stop: Duration,
}

impl Terms {
    /// A taker waits for so long: a quarter more than holder and its stop take, so that clocks may
    /// differ in their rates.
    pub fn wait(&self) -> Duration {
        (self.hold + self.stop) * 5 / 4
    }

    /// A holder looks and beats so often.
    fn every(&self) -> Duration {
        self.hold / 4
    }
}

/// What an epoch's owner says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// It has, or waits for, the lease.
    Held,
    /// It had the lease and has stopped using it for good.
    Settled,
    /// It gave up before it had the lease.
    GivenUp,
}

/// The highest epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number.
    pub epoch: u64,
    /// Of its owner, never used again by it after it let the lease go.
    pub token: String,
    /// Changes as long as its owner lives.
    pub beat: u64,
    /// What its owner says.
    pub mark: Mark,
}

/// Something to do in the shared directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Read the highest epoch: [`Outcome::Seen`].
    Look,
    /// Make this epoch, which must fail if it is there: [`Outcome::Made`].
    Make(Record),
    /// Overwrite an epoch of one's own: [`Outcome::Written`].
    Write(Record),
}

/// How it went. What failed may still come into effect, at any later time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The highest epoch, if there is any.
    Seen(Option<Record>),
    /// Whether it was made, or was there.
    Made(bool),
    /// It is written.
    Written,
    /// Nobody knows.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Not wanted.
    Off,
    /// Somebody has it. `same_since`: when the record was first seen as it is.
    Watching { seen: Option<(Record, Duration)> },
    /// The next epoch is to be made. `clean`: nobody can be using the disk.
    Making { epoch: u64, clean: bool },
    /// Made; the holder before may not have stopped yet.
    Waiting { epoch: u64, until: Duration, clean: bool },
    /// Held, and usable until then.
    Held { epoch: u64, until: Duration, clean: bool },
    /// It is to be said that the epoch is over.
    Leaving { record: Record },
}

/// How far a host is with a lease, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It is not wanted.
    Off,
    /// The highest epoch is this one, which has been as it is since then.
    Watching(Option<(&'a Record, Duration)>),
    /// It is this host's from then on; until then the holder before may use it.
    Waiting(Duration),
    /// It is this host's.
    Held,
}

/// One host's part in a lease.
#[derive(Debug)]
pub struct Lease {
    terms: Terms,
    /// Of this host and process.
    owner: String,
    /// Makes tokens different.
    number: u64,
    state: State,
    /// What is under way, and when it began.
    asked: Option<(Op, Duration)>,
    beat: u64,
    /// The next look is due.
    due: Duration,
    /// Its turn to beat, before it looks.
    beats: bool,
}

impl Lease {
    /// A part that does not want the lease yet. `owner` must never have been used by another
    /// process, on any host.
    pub fn new(terms: Terms, owner: impl Into<String>) -> Self {
        Self {
            terms,
            owner: owner.into(),
            number: 0,
            state: State::Off,
            asked: None,
            beat: 0,
            due: Duration::ZERO,
            beats: false,
        }
    }

    /// Wants the lease from now on.
    pub fn want(&mut self, now: Duration) {
        if matches!(self.state, State::Off | State::Leaving { .. }) {
            // What was said of the old epoch may come into effect later.
            self.number += 1;
            self.watch(now);
        }
    }

    /// Wants it no more. The caller has stopped using it, for good.
    pub fn leave(&mut self, now: Duration) {
        let (epoch, mark) = match self.state {
            State::Held { epoch, .. } => (epoch, Mark::Settled),
            State::Waiting { epoch, .. } => (epoch, Mark::GivenUp),
            State::Leaving { .. } => return,
            State::Off | State::Watching { .. } | State::Making { .. } => {
                self.state = State::Off;
                return;
            }
        };
        self.state = State::Leaving { record: self.record(epoch, mark) };
        self.due = now;
    }

    /// Whether the disk may be used now.
    pub fn may_use(&self, now: Duration) -> bool {
        self.usable_until().is_some_and(|until| now < until)
    }

    /// Until when it may be used, if nothing more is heard; it may be over already.
    pub fn usable_until(&self) -> Option<Duration> {
        match self.state {
            State::Held { until, .. } => Some(until),
            _ => None,
        }
    }

    /// The epoch of a lease that is held: whoever is shown a smaller one later must refuse it.
    pub fn epoch(&self) -> Option<u64> {
        match self.state {
            State::Held { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// Whether the holder before, if there was one, had said that it had stopped: what it used was
    /// then left in order.
    pub fn is_clean(&self) -> bool {
        matches!(self.state, State::Held { clean: true, .. })
    }

    /// How far this host is.
    pub fn standing(&self) -> Standing<'_> {
        match &self.state {
            State::Off | State::Leaving { .. } => Standing::Off,
            State::Watching { seen } => {
                Standing::Watching(seen.as_ref().map(|(record, since)| (record, *since)))
            }
            State::Making { .. } => Standing::Watching(None),
            State::Waiting { until, .. } => Standing::Waiting(*until),
            State::Held { .. } => Standing::Held,
        }
    }

    /// Nothing is wanted and nothing is left to be said.
    pub fn is_off(&self) -> bool {
        self.state == State::Off
    }

    /// What to do next; none while something is under way, or nothing is due. When it is done, or it
    /// is no longer waited for, [`Lease::done`] is told.
    pub fn poll(&mut self, now: Duration) -> Option<Op> {
        if self.asked.is_some() || now < self.due {
            return None;
        }
        let op = match &self.state {
            State::Off => return None,
            State::Watching { .. } => Op::Look,
            State::Making { epoch, .. } => Op::Make(self.record(*epoch, Mark::Held)),
            State::Waiting { epoch, .. } | State::Held { epoch, .. } if self.beats => {
                let record = self.record(*epoch, Mark::Held);
                self.beat += 1;
                Op::Write(Record { beat: self.beat, ..record })
            }
            State::Waiting { .. } | State::Held { .. } => Op::Look,
            State::Leaving { record } => Op::Write(record.clone()),
        };
        self.asked = Some((op.clone(), now));
        Some(op)
    }

    /// When [`Lease::poll`] may have something again, if nothing is under way.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// How the last thing went.
    pub fn done(&mut self, now: Duration, outcome: Outcome) {
        let Some((op, began)) = self.asked.take() else { return };
        match op {
            Op::Look => match outcome {
                Outcome::Seen(record) => self.seen(now, began, record),
                _ => self.due = now + self.terms.every() / 4,
            },
            Op::Make(record) => self.made(now, record.epoch, &outcome),
            Op::Write(record) => match &self.state {
                State::Leaving { record: last } if *last == record => {
                    if outcome == Outcome::Written {
                        self.state = State::Off;
                    } else {
                        self.due = now + self.terms.every();
                    }
                }
                // One that failed is made up for by the next.
                State::Waiting { .. } | State::Held { .. } => self.beats = false,
                _ => {}
            },
        }
    }

    fn seen(&mut self, now: Duration, began: Duration, record: Option<Record>) {
        let mine = |epoch: u64| {
            record.as_ref().is_some_and(|r| r.epoch == epoch && r.token == self.token())
        };
        match self.state.clone() {
            State::Waiting { epoch, until, clean } if mine(epoch) => {
                if began >= until {
                    self.state = State::Held { epoch, until: began + self.terms.hold, clean };
                }
                self.next_round(now);
            }
            State::Held { epoch, clean, .. } if mine(epoch) => {
                self.state = State::Held { epoch, until: began + self.terms.hold, clean };
                self.next_round(now);
            }
            // Another has a higher one.
            State::Waiting { .. } | State::Held { .. } => {
                self.number += 1;
                self.watch(now);
            }
            State::Watching { seen } => self.judge(now, began, seen, record),
            State::Off | State::Making { .. } | State::Leaving { .. } => {}
        }
    }

    /// Whether to take the lease.
    fn judge(
        &mut self,
        now: Duration,
        began: Duration,
        seen: Option<(Record, Duration)>,
        record: Option<Record>,
    ) {
        let wait = self.terms.wait();
        let Some(record) = record else {
            self.make(now, 1, true);
            return;
        };
        if record.token == self.token() {
            // Made after all, when it was thought to have failed.
            self.state = State::Waiting { epoch: record.epoch, until: now + wait, clean: false };
            self.next_round(now);
            return;
        }
        let epoch = record.epoch.saturating_add(1);
        match (record.mark, seen) {
            (Mark::Settled, _) => self.make(now, epoch, true),
            (Mark::GivenUp, _) => self.make(now, epoch, false),
            (Mark::Held, Some((before, since))) if before == record => {
                if began >= since + wait {
                    self.make(now, epoch, false);
                } else {
                    self.due = now + self.terms.every();
                }
            }
            (Mark::Held, _) => {
                self.state = State::Watching { seen: Some((record, now)) };
                self.due = now + self.terms.every();
            }
        }
    }

    fn make(&mut self, now: Duration, epoch: u64, clean: bool) {
        self.state = State::Making { epoch, clean };
        self.due = now;
    }

    fn made(&mut self, now: Duration, epoch: u64, outcome: &Outcome) {
        // Left or wanted anew meanwhile, it is nobody's, and is taken over like any other.
        let State::Making { clean, .. } = self.state else { return };
        if *outcome == Outcome::Made(true) {
            let wait = if clean { Duration::ZERO } else { self.terms.wait() };
            self.state = State::Waiting { epoch, until: now + wait, clean };
            self.beats = false;
            self.due = now;
        } else {
            // Another was first, or nobody knows: the next look tells.
            self.watch(now);
        }
    }

    fn watch(&mut self, now: Duration) {
        self.state = State::Watching { seen: None };
        self.due = now;
    }

    fn next_round(&mut self, now: Duration) {
        self.beats = true;
        self.due = now + self.terms.every();
    }

    fn token(&self) -> String {
        format!("{}/{}", self.owner, self.number)
    }

    fn record(&self, epoch: u64, mark: Mark) -> Record {
        Record { epoch, token: self.token(), beat: self.beat, mark }
    }
}
