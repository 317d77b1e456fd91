//! Several hosts under one lease in simulated time: clocks of different rates, hosts that stand
//! still, die and come back, requests that are late, lost, or come into effect long after they were
//! given up. At no moment may two hosts write.

use super::{Lease, Mark, Op, Outcome, Record, Terms};
use std::{collections::BTreeMap, time::Duration};

const STEP_MS: u64 = 10;
/// A request that is not answered is given up after so much of the host's own time.
const PATIENCE: Duration = Duration::from_millis(300);
/// So many steps ago was what is seen from a cache.
const OLD_STEPS: usize = 200;
const TERMS: Terms = Terms { hold: Duration::from_millis(1000), stop: Duration::from_millis(200) };

/// xorshift64*: the same run for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below.max(1)
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

/// What may be wrong with hosts or the file system, so that the model is seen to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The first host sees the directory as it was a while ago, as from a cache of names.
    OldNames,
    /// The first host keeps the lease for longer than the others know.
    Terms,
}

/// A request on its way to the shared directory, or its answer on the way back.
struct Request {
    host: usize,
    number: u64,
    op: Op,
    effect_at: u64,
    outcome: Option<Outcome>,
    /// When the answer is there; none: it is lost.
    answer_at: Option<u64>,
}

struct Host {
    name: usize,
    incarnation: u64,
    lease: Lease,
    terms: Terms,
    offset_ms: u64,
    /// Of its clock, in thousandths.
    rate: u64,
    standing_until: u64,
    dead_until: u64,
    cut_until: u64,
    /// What it writes is lost: nobody sees that it lives.
    mute_until: u64,
    /// The request it waits for.
    waits_for: Option<(u64, Duration)>,
    /// It goes on writing until then, by its own clock: its VMM takes its time to stop.
    writes_until: Duration,
    wants: bool,
}

impl Host {
    fn new(name: usize, incarnation: u64, terms: Terms, dice: &mut Dice) -> Self {
        Self {
            name,
            incarnation,
            lease: Lease::new(terms, format!("h-{name}.{incarnation}")),
            terms,
            offset_ms: dice.roll(1_000_000),
            rate: 900 + dice.roll(201),
            standing_until: 0,
            dead_until: 0,
            cut_until: 0,
            mute_until: 0,
            waits_for: None,
            writes_until: Duration::ZERO,
            wants: false,
        }
    }

    fn clock(&self, now: u64) -> Duration {
        Duration::from_micros(self.offset_ms * 1000 + now * self.rate)
    }

    /// What its guest may do now; as late as it can be.
    fn writes(&mut self, now: u64) -> bool {
        let clock = self.clock(now);
        match self.lease.usable_until() {
            Some(until) if clock < until => self.writes_until = until + self.terms.stop,
            Some(_) => {}
            // Lost before its time: it is told to stop.
            None => self.writes_until = self.writes_until.min(clock + self.terms.stop),
        }
        clock < self.writes_until
    }
}

struct World {
    dice: Dice,
    hosts: Vec<Host>,
    fault: Fault,
    directory: BTreeMap<u64, Record>,
    /// The directory as it was.
    old: Vec<BTreeMap<u64, Record>>,
    requests: Vec<Request>,
    numbers: u64,
    /// Who wrote last, by the epoch it has.
    writer: Option<usize>,
    writes: u64,
    takeovers: u64,
    clean: u64,
}

impl World {
    fn new(seed: u64, hosts: usize, fault: Fault) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let terms = |host: usize| match fault {
            Fault::Terms if host == 0 => Terms { hold: TERMS.hold * 20, stop: TERMS.stop },
            _ => TERMS,
        };
        let hosts = (0..hosts).map(|host| Host::new(host, 0, terms(host), &mut dice)).collect();
        Self {
            dice,
            hosts,
            fault,
            directory: BTreeMap::new(),
            old: Vec::new(),
            requests: Vec::new(),
            numbers: 0,
            writer: None,
            writes: 0,
            takeovers: 0,
            clean: 0,
        }
    }

    fn apply(directory: &mut BTreeMap<u64, Record>, op: &Op) -> Outcome {
        match op {
            Op::Look => Outcome::Seen(directory.last_key_value().map(|(_, r)| r.clone())),
            Op::Make(record) => {
                let made = !directory.contains_key(&record.epoch);
                if made {
                    directory.insert(record.epoch, record.clone());
                    // Lower ones are removed, as far as that goes: not always all of them.
                    let highest = directory.keys().next_back().copied().unwrap_or_default();
                    directory.retain(|epoch, _| *epoch == highest || epoch % 3 == 0);
                }
                Outcome::Made(made)
            }
            Op::Write(record) => {
                directory.insert(record.epoch, record.clone());
                Outcome::Written
            }
        }
    }

    fn deliver(&mut self, now: u64) {
        for request in &mut self.requests {
            if request.outcome.is_some() || request.effect_at > now {
                continue;
            }
            let seen = match self.old.first_mut() {
                Some(old)
                    if self.fault == Fault::OldNames
                        && request.host == 0
                        && request.op == Op::Look =>
                {
                    old
                }
                _ => &mut self.directory,
            };
            request.outcome = Some(Self::apply(seen, &request.op));
        }
        if self.fault == Fault::OldNames {
            self.old.push(self.directory.clone());
            let excess = self.old.len().saturating_sub(OLD_STEPS);
            self.old.drain(..excess);
        }
        let hosts = &mut self.hosts;
        self.requests.retain(|request| {
            let Some(outcome) = &request.outcome else { return true };
            let Some(answer_at) = request.answer_at else { return false };
            let host = &mut hosts[request.host];
            if answer_at > now || host.standing_until > now {
                return true;
            }
            if host.waits_for.is_some_and(|(number, _)| number == request.number) {
                host.waits_for = None;
                let clock = host.clock(now);
                host.lease.done(clock, outcome.clone());
            }
            false
        });
    }

    fn send(&mut self, index: usize, op: Op, now: u64, calm: bool) {
        self.numbers += 1;
        let host = &mut self.hosts[index];
        let clock = host.clock(now);
        host.waits_for = Some((self.numbers, clock));
        let late = |dice: &mut Dice| match dice.roll(20) {
            _ if calm => dice.roll(30),
            0 => dice.roll(8000),
            1..=3 => dice.roll(600),
            _ => dice.roll(30),
        };
        let cut = host.cut_until > now;
        let unheard = host.mute_until > now && matches!(op, Op::Write(_));
        if unheard || (cut && self.dice.one_in(2)) {
            return;
        }
        let sent = if cut { host.cut_until } else { now };
        let effect_at = sent + late(&mut self.dice);
        let lost = !calm && self.dice.one_in(20);
        let answer_at = (!lost).then(|| effect_at + late(&mut self.dice));
        let number = self.numbers;
        self.requests.push(Request {
            host: index,
            number,
            op,
            effect_at,
            outcome: None,
            answer_at,
        });
    }

    fn disturb(&mut self, index: usize, now: u64) {
        let dice = &mut self.dice;
        let host = &mut self.hosts[index];
        if dice.one_in(400) {
            host.standing_until = now + dice.roll(5000);
        }
        if dice.one_in(400) {
            host.cut_until = now + dice.roll(4000);
        }
        if dice.one_in(300) {
            host.mute_until = now + dice.roll(6000);
        }
        if dice.one_in(800) {
            let (name, terms) = (host.name, host.terms);
            *host = Host::new(name, host.incarnation + 1, terms, dice);
            host.dead_until = now + dice.roll(4000);
        }
    }

    /// One step. Who writes in it, with its epoch.
    fn step(&mut self, now: u64, calm: bool) -> Vec<(usize, Option<u64>)> {
        self.deliver(now);
        let mut writers = Vec::new();
        for index in 0..self.hosts.len() {
            if !calm {
                self.disturb(index, now);
            }
            let host = &mut self.hosts[index];
            if host.standing_until > now || host.dead_until > now {
                continue;
            }
            let clock = host.clock(now);
            if host.waits_for.is_some_and(|(_, since)| clock > since + PATIENCE) {
                host.waits_for = None;
                host.lease.done(clock, Outcome::Failed);
            }
            let changes = if calm { !host.wants } else { self.dice.one_in(150) };
            if changes {
                host.wants = !host.wants;
                if host.wants {
                    host.lease.want(clock);
                } else {
                    // Its guest was stopped before it lets go.
                    if host.lease.epoch().is_some() && host.lease.may_use(clock) {
                        self.clean += 1;
                    }
                    host.writes_until = Duration::ZERO;
                    host.lease.leave(clock);
                }
            }
            if let Some(op) = host.lease.poll(clock) {
                self.send(index, op, now, calm);
            }
            let host = &mut self.hosts[index];
            if host.writes(now) {
                writers.push((index, host.lease.epoch()));
            }
        }
        writers
    }

    /// The moment at which two wrote, if there is one.
    fn run(&mut self, until: u64) -> Result<(), String> {
        let mut highest = 0;
        for now in (0..until).step_by(STEP_MS as usize) {
            let writers = self.step(now, false);
            self.judge(now, &writers, &mut highest)?;
        }
        // With nothing in its way somebody gets it: two waits, and what was still on its way.
        let mut last = false;
        for now in (until..until + 30_000).step_by(STEP_MS as usize) {
            let writers = self.step(now, true);
            self.judge(now, &writers, &mut highest)?;
            last = !writers.is_empty();
        }
        if last { Ok(()) } else { Err("nobody has it in the end".to_owned()) }
    }

    fn judge(
        &mut self,
        now: u64,
        writers: &[(usize, Option<u64>)],
        highest: &mut u64,
    ) -> Result<(), String> {
        if writers.len() > 1 {
            return Err(format!("two writers at {now}: {writers:?}"));
        }
        let Some((writer, epoch)) = writers.first() else { return Ok(()) };
        self.writes += 1;
        if let Some(epoch) = epoch {
            if epoch < highest {
                return Err(format!("epoch {epoch} after {highest} at {now}"));
            }
            *highest = *epoch;
        }
        if self.writer.replace(*writer) != Some(*writer) {
            self.takeovers += 1;
        }
        Ok(())
    }
}

#[test]
fn never_two_writers_whatever_happens() {
    let (mut writes, mut takeovers, mut clean) = (0, 0, 0);
    for seed in 0..400 {
        let hosts = 2 + usize::try_from(seed % 3).unwrap();
        let mut world = World::new(seed, hosts, Fault::None);
        if let Err(what) = world.run(60_000) {
            panic!("seed {seed}, {hosts} hosts: {what}");
        }
        writes += world.writes;
        takeovers += world.takeovers;
        clean += world.clean;
    }
    // The disk was used, changed hands, and was let go in order too.
    assert!(writes > 400_000 && takeovers > 600 && clean > 300, "{writes} {takeovers} {clean}");
}

#[test]
fn the_model_sees_two_writers_where_there_are_any() {
    for fault in [Fault::OldNames, Fault::Terms] {
        let found = (0..1000).find_map(|seed| {
            let mut world = World::new(seed, 3, fault);
            world.run(60_000).err().filter(|what| what.contains("two writers"))
        });
        assert!(found.is_some(), "{fault:?} does not matter");
    }
}

fn record(epoch: u64, token: &str, mark: Mark) -> Record {
    Record { epoch, token: token.to_owned(), beat: 1, mark }
}

/// Answers `lease` out of a directory at once, until `until`.
fn go(lease: &mut Lease, directory: &mut BTreeMap<u64, Record>, from: u64, until: u64) {
    for now in (from..until).map(Duration::from_millis) {
        if let Some(op) = lease.poll(now) {
            lease.done(now, World::apply(directory, &op));
        }
    }
}

#[test]
fn what_a_holder_said_decides_how_long_a_taker_waits() {
    // Nobody before, or one that has stopped: at once. One that gave up: a wait. One that is
    // silent: a wait until that is known, and another.
    let wait = u64::try_from(TERMS.wait().as_millis()).unwrap();
    for (before, least, most) in [
        (None, 0, 500),
        (Some(Mark::Settled), 0, 500),
        (Some(Mark::GivenUp), wait, wait + 500),
        (Some(Mark::Held), 2 * wait, 2 * wait + 1000),
    ] {
        let mut directory = BTreeMap::new();
        if let Some(mark) = before {
            directory.insert(7, record(7, "other", mark));
        }
        let has_it = |at: u64| {
            let mut lease = Lease::new(TERMS, "me");
            let mut directory = directory.clone();
            lease.want(Duration::ZERO);
            go(&mut lease, &mut directory, 0, at);
            lease.epoch().is_some()
        };
        let got = (0..10_000).step_by(50).find(|at| has_it(*at)).unwrap();
        assert!((least..=most).contains(&got), "{before:?}: {got}");
    }
}

#[test]
fn a_holder_without_answers_stops_and_one_that_left_is_done_with() {
    let mut directory = BTreeMap::new();
    let mut lease = Lease::new(TERMS, "me");
    lease.want(Duration::ZERO);
    go(&mut lease, &mut directory, 0, 100);
    let at = Duration::from_millis;
    assert!(lease.may_use(at(100)));
    assert_eq!(lease.epoch(), Some(1));
    assert!(!lease.may_use(at(100) + TERMS.hold), "nothing was heard");
    // A look that found it still its own gives it back, as nobody can have taken it before that.
    go(&mut lease, &mut directory, 3000, 3300);
    assert!(lease.may_use(at(3300)));
    // Another's epoch ends it at once.
    directory.insert(2, record(2, "other", Mark::Held));
    go(&mut lease, &mut directory, 3300, 3700);
    assert!(!lease.may_use(at(3700)) && lease.epoch().is_none());
    directory.insert(2, record(2, "other", Mark::Settled));
    go(&mut lease, &mut directory, 3700, 4100);
    assert_eq!(lease.epoch(), Some(3));
    lease.leave(at(4100));
    assert!(!lease.may_use(at(4100)) && !lease.is_off(), "it is still to be said");
    go(&mut lease, &mut directory, 4100, 4101);
    assert!(lease.is_off());
    assert_eq!(directory[&3].mark, Mark::Settled);
}
