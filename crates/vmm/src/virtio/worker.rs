//! The thread that serves queues: it waits for doorbells, for the device's own descriptors and for
//! orders, and lives from attach to the end of the machine, so that a driver's resets start no
//! threads.

use super::{device::Activation, interrupt::QueueInterrupt, ring::BrokenRing};
use crate::thread::{self, Handle, ThreadKind};
use std::{io, os::fd::RawFd, sync::mpsc};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd},
};

/// Token of orders; sources and doorbells follow.
const ORDERS: u64 = 0;
const SOURCES: u64 = 1;
const DOORBELLS: u64 = 1 << 32;
/// Events taken at once.
const BATCH: usize = 16;

/// Whether a handler has done all there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing left until the next event.
    Idle,
    /// There is more; call again after looking at other events.
    More,
}

/// What a device does with its queues. All calls come from one thread.
pub trait Handler: Send {
    /// Descriptors of the device's own to wait for. With `true`: only when they become readable
    /// anew.
    fn sources(&self) -> Vec<(RawFd, bool)>;
    /// Whether doorbells come to this thread. Otherwise `start` passes them on.
    fn takes_doorbells(&self) -> bool {
        true
    }
    /// A driver has set queues up.
    ///
    /// # Errors
    /// If they are broken.
    fn start(&mut self, activation: Activation) -> Result<(), BrokenRing>;
    /// The doorbell of the `number`th queue of the activation rang.
    ///
    /// # Errors
    /// If the queue is broken.
    fn doorbell(&mut self, number: usize) -> Result<Progress, BrokenRing>;
    /// The `number`th source became readable. Can also come when no queue is active.
    ///
    /// # Errors
    /// If a queue is broken.
    fn ready(&mut self, number: usize) -> Result<Progress, BrokenRing>;
    /// The `number`th queue of the activation interrupts elsewhere from now on. Those who signal
    /// through [`QueueInterrupt::signal`] need not care.
    fn interrupt_changed(&mut self, _number: usize, _interrupt: &QueueInterrupt) {}
    /// The device is taken from under its driver: finish what is under way and let go of all the
    /// host gave for it. From now on the driver is only told that nothing works. Sources may be
    /// others afterwards.
    fn abandon(&mut self) {}
    /// What a source is about was exchanged for its like, under the same descriptor.
    ///
    /// # Errors
    /// If the host refuses to go on with it.
    fn renew(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// The queues are gone: finish what is under way, then forget them.
    fn stop(&mut self);
}

enum Order {
    Start(Box<Activation>),
    Interrupt(usize, QueueInterrupt),
    Abandon(mpsc::Sender<()>),
    Renew(mpsc::Sender<io::Result<()>>),
    Stop(mpsc::Sender<()>),
    Exit,
}

/// The other end of a serving thread.
#[derive(Debug)]
pub struct Worker {
    orders: mpsc::Sender<Order>,
    wake: EventFd,
    thread: Option<Handle<()>>,
}

impl Worker {
    /// Starts a thread for `handler`.
    ///
    /// # Errors
    /// If the host has no descriptor or thread left.
    pub fn spawn(name: &str, handler: Box<dyn Handler>) -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (orders, inbox) = mpsc::channel();
        let mut service = Service::new(handler, inbox, wake.try_clone()?)?;
        let thread = thread::spawn(ThreadKind::VirtioWorker, name, move || service.run())?;
        Ok(Self { orders, wake, thread: Some(thread) })
    }

    /// Ends the thread. On return all it had is released. Only once threads run.
    pub fn close(&mut self) {
        self.order(Order::Exit);
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }

    /// Hands queues over.
    pub fn start(&self, activation: Activation) {
        self.order(Order::Start(Box::new(activation)));
    }

    /// Passes on that the `number`th queue interrupts elsewhere.
    pub fn change_interrupt(&self, number: usize, interrupt: QueueInterrupt) {
        self.order(Order::Interrupt(number, interrupt));
    }

    /// Takes the queues away. On return the thread touches guest memory no more.
    pub fn stop(&self) {
        self.carry_out(Order::Stop);
    }

    /// Lets go of what the device works on. On return that is released; the driver is still served,
    /// with errors.
    pub fn abandon(&self) {
        self.carry_out(Order::Abandon);
    }

    /// Goes on with what was put in the place of the device's own descriptors.
    ///
    /// # Errors
    /// The host's.
    pub fn renew(&self) -> io::Result<()> {
        let (done, wait) = mpsc::channel();
        self.order(Order::Renew(done));
        // Without a thread there is nothing to go on with.
        wait.recv().unwrap_or(Ok(()))
    }

    fn carry_out(&self, order: fn(mpsc::Sender<()>) -> Order) {
        let (done, wait) = mpsc::channel();
        self.order(order(done));
        // An error means that the thread is gone, and then there is nothing to stop.
        let _ = wait.recv();
    }

    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = self.wake.write(1);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.order(Order::Exit);
    }
}

struct Doorbell {
    event: EventFd,
    interrupt: QueueInterrupt,
    more: bool,
}

struct Service {
    epoll: Epoll,
    handler: Box<dyn Handler>,
    inbox: mpsc::Receiver<Order>,
    wake: EventFd,
    doorbells: Vec<Doorbell>,
    /// Whether each source has more to be served.
    more: Vec<bool>,
}

impl Service {
    fn new(
        handler: Box<dyn Handler>,
        inbox: mpsc::Receiver<Order>,
        wake: EventFd,
    ) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let epoll = Epoll::new()?;
        let orders = EpollEvent::new(EventSet::IN, ORDERS);
        epoll.ctl(ControlOperation::Add, wake.as_raw_fd(), orders)?;
        let mut service = Self { epoll, handler, inbox, wake, doorbells: Vec::new(), more: vec![] };
        service.listen()?;
        Ok(service)
    }

    fn listen(&mut self) -> io::Result<()> {
        let sources = self.handler.sources();
        self.more = vec![false; sources.len()];
        for ((fd, edge), token) in sources.into_iter().zip(SOURCES..) {
            let set = if edge { EventSet::IN | EventSet::EDGE_TRIGGERED } else { EventSet::IN };
            self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(set, token))?;
        }
        Ok(())
    }

    /// The sources that were have gone to others, perhaps, so they must not be waited for any more.
    fn abandon(&mut self) {
        for (fd, _) in self.handler.sources() {
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        self.handler.abandon();
        if let Err(error) = self.listen() {
            crate::say::report(format_args!("an abandoned device is not served: {error}"));
        }
        for doorbell in &mut self.doorbells {
            doorbell.more = true;
        }
    }

    /// Who has gone from the descriptors is not waited for any more; who has come is.
    fn renew(&mut self) -> io::Result<()> {
        self.handler.renew()?;
        for (fd, _) in self.handler.sources() {
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        self.listen()?;
        self.more.fill(true);
        Ok(())
    }

    fn run(&mut self) {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            let busy = self.more.contains(&true) || self.doorbells.iter().any(|bell| bell.more);
            let count = match self.epoll.wait(if busy { 0 } else { -1 }, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => {
                    return crate::say::report(format_args!("virtio worker cannot wait: {error}"));
                }
            };
            for event in &events[..count] {
                match event.data() {
                    ORDERS => {
                        let _ = self.wake.read();
                        if !self.obey() {
                            return;
                        }
                    }
                    token if token >= DOORBELLS => {
                        if let Some(doorbell) = self.doorbells.get_mut((token - DOORBELLS) as usize)
                        {
                            doorbell.more = true;
                        }
                    }
                    token => {
                        if let Some(more) = self.more.get_mut((token - SOURCES) as usize) {
                            *more = true;
                        }
                    }
                }
            }
            for number in 0..self.more.len() {
                if std::mem::take(&mut self.more[number]) {
                    let outcome = self.handler.ready(number);
                    self.more[number] = outcome == Ok(Progress::More);
                    self.check(outcome.map(drop));
                }
            }
            for number in 0..self.doorbells.len() {
                self.serve(number);
            }
        }
    }

    fn serve(&mut self, number: usize) {
        let Some(doorbell) = self.doorbells.get_mut(number).filter(|doorbell| doorbell.more) else {
            return;
        };
        doorbell.more = false;
        match self.handler.doorbell(number) {
            Ok(Progress::Idle) => {}
            Ok(Progress::More) => doorbell.more = true,
            Err(broken) => self.check(Err(broken)),
        }
    }

    /// Obeys what is in the inbox. Returns false when the thread shall end.
    fn obey(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Start(activation)) => self.start(*activation),
                Ok(Order::Interrupt(number, interrupt)) => {
                    self.handler.interrupt_changed(number, &interrupt);
                }
                Ok(Order::Abandon(done)) => {
                    self.abandon();
                    let _ = done.send(());
                }
                Ok(Order::Renew(done)) => {
                    let _ = done.send(self.renew());
                }
                Ok(Order::Stop(done)) => {
                    self.halt();
                    let _ = done.send(());
                }
                Ok(Order::Exit) | Err(mpsc::TryRecvError::Disconnected) => {
                    self.halt();
                    return false;
                }
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn start(&mut self, activation: Activation) {
        self.halt();
        let broken = activation.queues.first().map(|queue| queue.interrupt.clone());
        let watched = if self.handler.takes_doorbells() { self.watch(&activation) } else { Ok(()) };
        let outcome = watched.and_then(|()| self.handler.start(activation));
        if let Err(problem) = outcome {
            self.give_up(problem, broken);
        }
    }

    fn watch(&mut self, activation: &Activation) -> Result<(), BrokenRing> {
        use std::os::fd::AsRawFd;
        for (queue, token) in activation.queues.iter().zip(DOORBELLS..) {
            let watched = queue.doorbell.try_clone().and_then(|event| {
                // Every ring is an edge, so that nobody has to make the descriptor unreadable.
                let interest = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, token);
                self.epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
                Ok(event)
            });
            let event = watched.map_err(|_| BrokenRing("no descriptor left for its doorbell"))?;
            // What was made available before is served without another ring.
            let interrupt = queue.interrupt.clone();
            self.doorbells.push(Doorbell { event, interrupt, more: true });
        }
        Ok(())
    }

    fn halt(&mut self) {
        use std::os::fd::AsRawFd;
        for doorbell in self.doorbells.drain(..) {
            let fd = doorbell.event.as_raw_fd();
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        // What was ready before is not to be taken for ready after.
        self.more.fill(false);
        self.handler.stop();
    }

    /// After a broken rule nothing more is taken from the driver until it resets the device.
    fn check(&mut self, outcome: Result<(), BrokenRing>) {
        if let Err(broken) = outcome {
            let interrupt = self.doorbells.first().map(|doorbell| doorbell.interrupt.clone());
            self.give_up(broken, interrupt);
        }
    }

    fn give_up(&mut self, broken: BrokenRing, interrupt: Option<QueueInterrupt>) {
        crate::say::report(format_args!("{broken}; its driver must reset the device"));
        self.halt();
        if let Some(interrupt) = interrupt {
            interrupt.needs_reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::fd::AsRawFd as _,
        sync::{Arc, Mutex},
    };

    /// A source that stopping takes back, as a timer is disarmed.
    struct Timer {
        event: EventFd,
        calls: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Handler for Timer {
        fn sources(&self) -> Vec<(RawFd, bool)> {
            vec![(self.event.as_raw_fd(), false)]
        }

        fn start(&mut self, _activation: Activation) -> Result<(), BrokenRing> {
            Ok(())
        }

        fn doorbell(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
            Ok(Progress::Idle)
        }

        fn ready(&mut self, _number: usize) -> Result<Progress, BrokenRing> {
            self.calls.lock().unwrap().push("ready");
            Ok(Progress::Idle)
        }

        fn stop(&mut self) {
            self.calls.lock().unwrap().push("stop");
            let _ = self.event.read();
        }
    }

    #[test]
    fn what_became_ready_together_with_an_order_to_stop_is_ready_no_more() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let handler = Timer { event: event.try_clone().unwrap(), calls: Arc::clone(&calls) };
        let wake = EventFd::new(EFD_NONBLOCK).unwrap();
        let (orders, inbox) = mpsc::channel();
        let mut service =
            Service::new(Box::new(handler), inbox, wake.try_clone().unwrap()).unwrap();
        let (done, stopped) = mpsc::channel();
        event.write(1).unwrap();
        orders.send(Order::Stop(done)).unwrap();
        wake.write(1).unwrap();
        let thread = std::thread::spawn(move || service.run());
        stopped.recv().unwrap();
        orders.send(Order::Exit).unwrap();
        wake.write(1).unwrap();
        thread.join().unwrap();
        assert_eq!(*calls.lock().unwrap(), ["stop", "stop"]);
    }
}
