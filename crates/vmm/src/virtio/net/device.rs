//! virtio-net.

use super::{
    control::ControlQueue,
    queue::PairQueue,
    stats::Counters,
    tap::Tap,
    vhost::{RING_AND_HEADER_FEATURES, VhostPair},
};
use crate::{
    config::NicShape,
    memory::GuestMemory,
    virtio::{
        device::{ActivateError, Activation, ActiveQueue, VirtioDevice},
        interrupt::QueueInterrupt,
        worker::{Handler, Worker},
    },
};
use std::{
    fs::File,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

const DEVICE_TYPE: u16 = 1;
/// Ethernet controller.
const PCI_CLASS: u32 = 0x02_0000;

/// Whether the interface has a link, as its driver reads.
#[derive(Debug)]
pub struct Link(AtomicBool);

impl Link {
    /// Up or down.
    pub fn set(&self, up: bool) {
        self.0.store(up, Ordering::Release);
    }
}

/// An interface as its transport sees it.
#[derive(Debug)]
pub struct NetDevice {
    shape: NicShape,
    features: u64,
    taps: Vec<Weak<Tap>>,
    pairs: Vec<Worker>,
    control: Option<Worker>,
    counters: Arc<Counters>,
    link: Arc<Link>,
}

impl NetDevice {
    /// An interface on `taps`, one for each pair of queues, and either as many vhost-net devices
    /// or none.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn new(
        shape: NicShape,
        taps: Vec<Tap>,
        vhost: Vec<File>,
        memory: &GuestMemory,
    ) -> io::Result<Self> {
        let taps: Vec<_> = taps.into_iter().map(Arc::new).collect();
        let counters = Arc::new(Counters::default());
        let mut features = shape.features();
        let mut vhost = vhost.into_iter();
        let mut pairs = Vec::new();
        for (number, tap) in taps.iter().enumerate() {
            // A driver starts with one pair and asks for more.
            tap.set_attached(number == 0)?;
            let tap = Arc::clone(tap);
            let handler: Box<dyn Handler> = match vhost.next() {
                Some(file) => {
                    let pair = VhostPair::new(file, tap, number, memory)?;
                    features &= pair.features() | !RING_AND_HEADER_FEATURES;
                    Box::new(pair)
                }
                None => Box::new(PairQueue::new(tap, number, Arc::clone(&counters), shape.mtu)),
            };
            pairs.push(Worker::spawn(&format!("net{number}"), handler)?);
        }
        let weak = taps.iter().map(Arc::downgrade).collect();
        let control = if shape.pairs > 1 {
            Some(Worker::spawn("netctl", Box::new(ControlQueue::new(taps)))?)
        } else {
            None
        };
        let link = Arc::new(Link(AtomicBool::new(true)));
        Ok(Self { shape, features, taps: weak, pairs, control, counters, link })
    }

    /// The taps, one for each pair of queues, as long as it has them.
    pub fn taps(&self) -> Vec<Weak<Tap>> {
        self.taps.clone()
    }

    /// Whether there is a link.
    pub fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    /// What the data path in this process counts.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn pci_class(&self) -> u32 {
        PCI_CLASS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        self.shape.queue_sizes()
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn config(&self) -> Vec<u8> {
        self.shape.to_bytes(self.link.0.load(Ordering::Acquire))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, features, queues, lines } = activation;
        let control = self.shape.control_queue(features);
        let part = |queues: Vec<ActiveQueue>| Activation {
            memory: memory.clone(),
            features,
            queues,
            lines: Arc::clone(&lines),
        };
        let mut waiting: Option<ActiveQueue> = None;
        for queue in queues {
            if Some(queue.index) == control {
                if let Some(worker) = &self.control {
                    worker.start(part(vec![queue]));
                }
            } else if queue.index % 2 == 0 {
                waiting = Some(queue);
            } else if let Some(receive) =
                waiting.take_if(|receive| receive.index + 1 == queue.index)
                && let Some(worker) = self.pairs.get(receive.index / 2)
            {
                worker.start(part(vec![receive, queue]));
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        // The control queue first, or it could bring back pairs that have been given up.
        for worker in self.control.iter().chain(&self.pairs) {
            worker.stop();
        }
    }

    fn abandon(&mut self) {
        for worker in self.control.iter().chain(&self.pairs) {
            worker.abandon();
        }
    }

    fn renew(&mut self) -> io::Result<()> {
        self.pairs.iter().try_for_each(Worker::renew)
    }

    fn close(&mut self) {
        for worker in self.control.iter_mut().chain(&mut self.pairs) {
            worker.close();
        }
        self.control = None;
        self.pairs.clear();
    }

    fn queue_vector_changed(&mut self, queue: usize, interrupt: &QueueInterrupt) {
        if let Some(worker) = self.pairs.get(queue / 2) {
            worker.change_interrupt(queue % 2, interrupt.clone());
        }
    }
}

impl Drop for NetDevice {
    fn drop(&mut self) {
        // One that did not make it into the machine must not have its tap open when its owner hears
        // of it.
        if crate::thread::running() {
            self.close();
        }
    }
}
