//! virtio-blk.

use super::{
    backend::Backend,
    config::{QUEUE_SIZE, SECTOR},
    limiter::{Limiter, Rates},
    queue::{BlockQueue, DEPTH, DiskShared},
    request::ID_LEN,
    stats::Counters,
    trouble::Trouble,
};
use crate::virtio::{
    device::{ActivateError, Activation, VirtioDevice},
    worker::Worker,
};
use std::{
    fmt, io,
    sync::{Arc, atomic::AtomicU64},
};

const DEVICE_TYPE: u16 = 2;
/// Mass storage, SCSI: what guests expect of a virtio disk.
const PCI_CLASS: u32 = 0x01_0000;

/// What a disk is made from.
pub struct BlockConfig {
    /// ECS id.
    pub disk_id: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Queues, and so threads.
    pub queues: u16,
    /// Rates over all queues.
    pub rates: Rates,
}

/// A disk as its transport sees it.
pub struct BlockDevice {
    disk: Arc<DiskShared>,
    workers: Vec<Worker>,
}

impl BlockDevice {
    /// A disk on `backend`, with its threads.
    ///
    /// # Errors
    /// If the host has no descriptors or threads left.
    pub fn new(config: &BlockConfig, backend: &dyn Backend) -> io::Result<Self> {
        let queues = config.queues.max(1);
        let mut id = [0; ID_LEN];
        // As in ECS: what follows `d-`, which has just the room there is.
        let serial = config.disk_id.strip_prefix("d-").unwrap_or(&config.disk_id);
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        let disk = Arc::new(DiskShared {
            sectors: AtomicU64::new(backend.size() / SECTOR),
            read_only: config.read_only,
            queues,
            id,
            limiter: Limiter::new(config.rates),
            counters: Counters::default(),
            trouble: Trouble::default(),
        });
        let workers = (0..queues)
            .map(|number| {
                let queue = BlockQueue::new(Arc::clone(&disk), backend.queue(DEPTH)?)?;
                Worker::spawn(&format!("blk{number}"), Box::new(queue))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { disk, workers })
    }

    /// What all queues share.
    pub fn shared(&self) -> Arc<DiskShared> {
        Arc::clone(&self.disk)
    }
}

impl VirtioDevice for BlockDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn pci_class(&self) -> u32 {
        PCI_CLASS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.disk.queues)]
    }

    fn features(&self) -> u64 {
        self.disk.geometry().features()
    }

    fn config(&self) -> Vec<u8> {
        self.disk.geometry().to_bytes()
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, features, queues, lines } = activation;
        for queue in queues {
            if let Some(worker) = self.workers.get(queue.index) {
                let lines = Arc::clone(&lines);
                let memory = memory.clone();
                worker.start(Activation { memory, features, queues: vec![queue], lines });
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        for worker in &self.workers {
            worker.stop();
        }
    }

    fn abandon(&mut self) {
        // Nothing that fails anyway shall wait.
        self.disk.limiter.set(Rates::default());
        for worker in &self.workers {
            worker.abandon();
        }
    }

    fn close(&mut self) {
        for worker in &mut self.workers {
            worker.close();
        }
        self.workers.clear();
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        // A disk that did not make it into the machine must not have its files open when its owner
        // hears of it.
        if crate::thread::running() {
            self.close();
        }
    }
}

impl fmt::Debug for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDevice").field("disk", &self.disk).finish_non_exhaustive()
    }
}
