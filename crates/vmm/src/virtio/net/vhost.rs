//! The data path in the host's kernel: one vhost-net device for each pair of queues.

use super::{config::F_MRG_RXBUF, tap::Tap};
use crate::{
    memory::GuestMemory,
    virtio::{
        device::{Activation, ActiveQueue, RING_FEATURES},
        interrupt::QueueInterrupt,
        ring::BrokenRing,
        worker::{Handler, Progress},
    },
};
use std::{
    fmt,
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_kern::{
        VhostKernBackend,
        vhost_binding::{VHOST_NET_SET_BACKEND, vhost_vring_file},
    },
};
use virtio_queue::QueueT;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::ioctl::ioctl_with_ref;

/// Features of vhost itself, which mean other things to a driver: dirty page logging, and packet
/// headers made up by vhost, where ours come from the tap.
const NOT_FOR_DRIVERS: u64 = 1 << 26 | 1 << 27;

/// Rings of a pair: receive and transmit.
const RINGS: usize = 2;

/// Features the data path must know about; the others concern the tap or this process.
pub const RING_AND_HEADER_FEATURES: u64 = RING_FEATURES | F_MRG_RXBUF;

struct Device {
    file: File,
    memory: Arc<GuestMemory>,
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Device {
    type AS = Arc<GuestMemory>;

    fn mem(&self) -> &Self::AS {
        &self.memory
    }
}

impl Device {
    fn set_backend(&self, ring: usize, tap: Option<&File>) -> io::Result<()> {
        let backend =
            vhost_vring_file { index: ring as u32, fd: tap.map_or(-1, AsRawFd::as_raw_fd) };
        // SAFETY: the kernel reads one struct of this type.
        match unsafe { ioctl_with_ref(self, VHOST_NET_SET_BACKEND(), &backend) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn set_up(&self, ring: usize, active: &ActiveQueue) -> io::Result<()> {
        let queue = &active.queue;
        let config = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            desc_table_addr: queue.desc_table(),
            avail_ring_addr: queue.avail_ring(),
            used_ring_addr: queue.used_ring(),
            ..Default::default()
        };
        self.set_vring_num(ring, queue.size()).map_err(io::Error::other)?;
        self.set_vring_base(ring, 0).map_err(io::Error::other)?;
        self.set_vring_addr(ring, &config).map_err(io::Error::other)?;
        self.set_vring_call(ring, &active.interrupt.event()?).map_err(io::Error::other)?;
        self.set_vring_kick(ring, &active.doorbell).map_err(io::Error::other)
    }
}

/// One pair of queues, served by the kernel. The thread it lives in only sets it up: what the
/// kernel is asked for is none of a vCPU's business.
pub struct VhostPair {
    /// None once it was taken away: the kernel moves nothing then.
    device: Option<(Device, Arc<Tap>)>,
    number: usize,
    features: u64,
    /// What driver and device agreed on, while the kernel has the rings.
    active: Option<u64>,
}

impl VhostPair {
    /// Takes over an opened vhost-net device.
    ///
    /// # Errors
    /// If it is none, or the host refuses.
    pub fn new(file: File, tap: Arc<Tap>, number: usize, memory: &GuestMemory) -> io::Result<Self> {
        let device = Device { file, memory: Arc::new(memory.clone()) };
        device.set_owner().map_err(io::Error::other)?;
        let features = device.get_features().map_err(io::Error::other)? & !NOT_FOR_DRIVERS;
        Ok(Self { device: Some((device, tap)), number, features, active: None })
    }

    /// What the kernel's side can do.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Hands the two queues, receive first, to the kernel.
    fn hand_over(&mut self, features: u64, queues: &[ActiveQueue]) -> io::Result<()> {
        let Some((device, tap)) = &self.device else { return Ok(()) };
        if self.number == 0 {
            tap.set_offload(features)?;
        }
        device.set_features(features & self.features).map_err(io::Error::other)?;
        let regions: Vec<_> = device.memory.iter().map(region).collect();
        device.set_mem_table(&regions).map_err(io::Error::other)?;
        for (ring, queue) in queues.iter().enumerate() {
            device.set_up(ring, queue)?;
        }
        // From the first backend on there is something to undo.
        self.active = Some(features);
        (0..RINGS).try_for_each(|ring| device.set_backend(ring, Some(tap.file())))
    }

    fn take_back(&mut self) {
        if self.active.take().is_some()
            && let Some((device, _)) = &self.device
        {
            for ring in 0..RINGS {
                // On return the kernel touches guest memory for this ring no more.
                let _ = device.set_backend(ring, None);
            }
        }
    }
}

impl Handler for VhostPair {
    fn sources(&self) -> Vec<(RawFd, bool)> {
        Vec::new()
    }

    fn takes_doorbells(&self) -> bool {
        false
    }

    fn start(&mut self, activation: Activation) -> Result<(), BrokenRing> {
        self.hand_over(activation.features, &activation.queues).map_err(|error| {
            crate::say::report(format_args!("vhost-net: {error}"));
            BrokenRing("vhost-net refuses it")
        })
    }

    fn doorbell(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        Ok(Progress::Idle)
    }

    fn ready(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
        Ok(Progress::Idle)
    }

    fn interrupt_changed(&mut self, number: usize, interrupt: &QueueInterrupt) {
        if self.active.is_none() {
            return;
        }
        let Some((device, _)) = &self.device else { return };
        let event = interrupt.event();
        let set = |event| device.set_vring_call(number, &event).map_err(io::Error::other);
        if let Err(error) = event.and_then(set) {
            crate::say::report(format_args!("vhost-net: cannot change an interrupt: {error}"));
        }
    }

    fn abandon(&mut self) {
        self.take_back();
        self.device = None;
    }

    fn renew(&mut self) -> io::Result<()> {
        let (Some((device, tap)), Some(features)) = (&self.device, self.active) else {
            return Ok(());
        };
        if self.number == 0 {
            tap.set_offload(features)?;
        }
        for ring in 0..RINGS {
            device.set_backend(ring, None)?;
            device.set_backend(ring, Some(tap.file()))?;
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.take_back();
        if let Some((_, tap)) = &self.device {
            tap.start_over(self.number);
        }
    }
}

fn region(region: &GuestRegionMmap<()>) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
        ..Default::default()
    }
}

impl fmt::Debug for VhostPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostPair").field("active", &self.active).finish_non_exhaustive()
    }
}
