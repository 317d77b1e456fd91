//! The control queue: how many pairs of queues the driver uses.

use super::tap::Tap;
use crate::virtio::{
    chain::Buffers,
    device::Activation,
    interrupt::QueueInterrupt,
    ring::{BrokenRing, Ring, Used},
    worker::{Handler, Progress},
};
use std::{os::fd::RawFd, sync::Arc};

const CLASS_MQ: u8 = 4;
const MQ_PAIRS_SET: u8 = 0;
const OK: u8 = 0;
const ERROR: u8 = 1;
const BATCH: usize = 16;

/// Serves the control queue.
#[derive(Debug)]
pub struct ControlQueue {
    taps: Vec<Arc<Tap>>,
    active: Option<(Ring, QueueInterrupt)>,
}

impl ControlQueue {
    /// A control queue without a driver.
    pub fn new(taps: Vec<Arc<Tap>>) -> Self {
        Self { taps, active: None }
    }
}

/// The number of pairs a command asks for, if that is what it is and the device has them.
pub fn pairs_wanted(buffers: &Buffers, pairs: usize) -> Option<usize> {
    let mut command = [0; 4];
    let complete = buffers.readable.read(&mut command) == command.len();
    let wanted = usize::from(u16::from_le_bytes([command[2], command[3]]));
    let known = command[..2] == [CLASS_MQ, MQ_PAIRS_SET];
    (complete && known && (1..=pairs).contains(&wanted)).then_some(wanted)
}

/// Spreads the tap's packets over its first `pairs` queues.
fn use_pairs(taps: &[Arc<Tap>], pairs: usize) -> bool {
    taps.iter().enumerate().all(|(number, tap)| tap.set_attached(number < pairs).is_ok())
}

impl Handler for ControlQueue {
    fn sources(&self) -> Vec<(RawFd, bool)> {
        Vec::new()
    }

    fn start(&mut self, activation: Activation) -> Result<(), BrokenRing> {
        if let Some(queue) = activation.queues.into_iter().next() {
            self.active = Some((Ring::new(queue.queue, activation.memory)?, queue.interrupt));
        }
        Ok(())
    }

    fn doorbell(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        let Some((ring, interrupt)) = &mut self.active else { return Ok(Progress::Idle) };
        let mut used = Vec::with_capacity(BATCH);
        while used.len() < BATCH
            && let Some(buffers) = ring.pop()?
        {
            let done = pairs_wanted(&buffers, self.taps.len())
                .is_some_and(|pairs| use_pairs(&self.taps, pairs));
            let written = buffers.writable.write(&[if done { OK } else { ERROR }]);
            used.push(Used { head: buffers.head, len: written as u32 });
        }
        if !used.is_empty() {
            ring.publish(&used)?;
            if ring.should_interrupt()? {
                interrupt.signal();
            }
        }
        Ok(if used.len() == BATCH || ring.enable_doorbell()? {
            Progress::More
        } else {
            Progress::Idle
        })
    }

    fn ready(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        Ok(Progress::Idle)
    }

    fn abandon(&mut self) {
        // Every command fails from now on.
        self.taps.clear();
    }

    fn stop(&mut self) {
        self.active = None;
    }
}
