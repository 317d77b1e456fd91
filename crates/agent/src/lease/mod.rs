//! A lease on something in a directory that several hosts share, such as a disk: of all hosts, at
//! most one uses it at any time. Nobody's clock is compared with anybody else's, and no lock of the
//! file system is relied on, only that a name is made once and that a later look sees it.
//!
//! Every change of holder is an *epoch*, a file that exactly one host can make. The holder of the
//! highest epoch has the lease. The argument that two never use the disk at once:
//!
//! 1. A holder may use the disk until `hold` after the *start* of its last look that found its own
//!    epoch to be the highest, on its own clock. With `stop` more it has stopped.
//! 2. A taker makes the next epoch at some moment t, and then waits `Terms::wait` before it uses the
//!    disk, whatever it saw before.
//! 3. A look that begins after t finds the taker's epoch. So every look that found the old one began
//!    before t, and what it allows ends before t + `hold` + `stop` of the old holder's clock. `wait`
//!    is longer than that as long as no clock is wrong by more than a tenth of the time it measures.
//!
//! Beats, by which a holder shows that it lives, are only for takers to know whom to leave alone: a
//! wrong guess costs a holder its lease, never the disk. No wait is needed after a holder that said
//! that it had stopped (`Mark::Settled`). Only one that had waited itself may say so: of one that
//! gave up while it waited, nobody knows whether the holder before it has stopped.
//!
//! What a process cannot promise: a host that stands still between its last look at the clock and
//! the write that follows, and goes on after another has taken over, writes once more. Who must rule
//! that out too needs a shared file system that refuses the writes of a client it has given up.

mod clock;
mod directory;
pub mod keeper;
mod local;
mod machine;
#[cfg(test)]
mod model;

pub use clock::now;
pub use directory::Directory;
pub use local::{Held, LeaseState, Leases, Want};
pub(crate) use local::{registered, usable_until};
pub use machine::{Lease, Mark, Op, Outcome, Record, Standing, Terms};
