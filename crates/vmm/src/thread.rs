//! Threads of the process, each with the system call filter of its kind.
//!
//! A thread inherits the root directory, credentials and filters of the thread that makes it, and
//! filters only ever add up. So no thread may start before the jail has closed, and none may be
//! made by a thread that is already filtered more narrowly. [`hold`] makes [`spawn`] queue until
//! [`release`], and from then on one thread that exists for nothing else makes all the others.
//! Without [`hold`], as in tests, [`spawn`] makes threads at once and unfiltered.
//!
//! A thread that was queued and cannot start ends the process. One that is asked for later is
//! refused to who asked: a machine goes on without a device it has not got yet.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread::Builder,
};

/// Stack of every thread. Only touched pages cost memory.
const STACK: usize = 256 << 10;

/// What a thread does, which decides which system calls it may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// The first thread: waits for the end of the machine.
    Main,
    /// Makes all other threads.
    Spawner,
    /// Runs guest code and the devices' registers.
    Vcpu,
    /// Works on virtqueues.
    VirtioWorker,
    /// Answers the control socket.
    Control,
    /// Moves the serial console's bytes.
    Console,
    /// Carries out one request about a device that may take long.
    Device,
}

/// Limits the calling thread for good; called first thing in each new thread.
pub type Confine = fn(ThreadKind) -> Result<(), String>;

struct Job {
    kind: ThreadKind,
    name: String,
    run: Box<dyn FnOnce() + Send>,
    /// Who waits to hear whether it has started.
    asked: Option<mpsc::SyncSender<std::io::Result<()>>>,
}

enum Mode {
    Direct,
    Held(Vec<Job>),
    Released(mpsc::Sender<Job>),
}

static MODE: Mutex<Mode> = Mutex::new(Mode::Direct);

fn mode() -> MutexGuard<'static, Mode> {
    MODE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a thread to wait for.
pub struct Handle<T> {
    done: mpsc::Receiver<T>,
}

impl<T> Handle<T> {
    /// Waits for the thread's end; `None` if it ended without a result.
    pub fn join(self) -> Option<T> {
        self.done.recv().ok()
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// Runs `body` in a thread of its own, confined as its kind asks. `name` has at most 15 bytes.
///
/// # Errors
/// If the host refuses another thread.
pub fn spawn<T, F>(kind: ThreadKind, name: &str, body: F) -> std::io::Result<Handle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (result, done) = mpsc::channel();
    let run = Box::new(move || {
        let _ = result.send(body());
    });
    let mut job = Job { kind, name: name.to_owned(), run, asked: None };
    let mut mode = mode();
    match &mut *mode {
        Mode::Direct => start(job, None)?,
        Mode::Held(jobs) => jobs.push(job),
        Mode::Released(spawner) => {
            let spawner = spawner.clone();
            drop(mode);
            let gone = || std::io::Error::other("the thread that makes threads has ended");
            let (asked, started) = mpsc::sync_channel(1);
            job.asked = Some(asked);
            spawner.send(job).map_err(|_| gone())?;
            started.recv().map_err(|_| gone())??;
        }
    }
    Ok(Handle { done })
}

/// Whether threads run that were made: not between [`hold`] and [`release`].
pub fn running() -> bool {
    !matches!(*mode(), Mode::Held(_))
}

/// From now until [`release`], [`spawn`] only queues.
pub fn hold() {
    let mut mode = mode();
    if matches!(*mode, Mode::Direct) {
        *mode = Mode::Held(Vec::new());
    }
}

/// Starts what was queued, and from now on starts at once.
///
/// # Errors
/// If the host refuses the thread that makes the others.
pub fn release(confine: Option<Confine>) -> std::io::Result<()> {
    let (spawner, jobs) = mpsc::channel::<Job>();
    let mut mode = mode();
    if let Mode::Held(held) = std::mem::replace(&mut *mode, Mode::Released(spawner.clone())) {
        for job in held {
            let _ = spawner.send(job);
        }
    }
    drop(mode);
    let run = Box::new(move || {
        for job in jobs {
            let (name, asked) = (job.name.clone(), job.asked.clone());
            if let Err(error) = start(job, confine) {
                refuse(&name, asked, error);
            }
        }
    });
    let name = "spawner".to_owned();
    start(Job { kind: ThreadKind::Spawner, name, run, asked: None }, confine)
}

fn start(job: Job, confine: Option<Confine>) -> std::io::Result<()> {
    let Job { kind, name, run, asked } = job;
    let label = name.clone();
    Builder::new().name(name).stack_size(STACK).spawn(move || {
        if let Some(confine) = confine
            && let Err(error) = confine(kind)
        {
            return refuse(&label, asked, std::io::Error::other(error));
        }
        if let Some(asked) = asked {
            let _ = asked.send(Ok(()));
        }
        run();
    })?;
    Ok(())
}

/// Tells who asked that the thread does not run.
fn refuse(name: &str, asked: Option<mpsc::SyncSender<std::io::Result<()>>>, error: std::io::Error) {
    match asked {
        Some(asked) => drop(asked.send(Err(error))),
        None => fail(name, &error.to_string()),
    }
}

/// A machine without one of its threads, or with an unconfined one, must not go on.
fn fail(name: &str, error: &str) -> ! {
    crate::say::say(format_args!("thread {name} cannot start: {error}"));
    std::process::exit(api::vmm::ExitCode::Host as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_result_comes_back_and_a_panic_gives_none() {
        let name = || std::thread::current().name().map(str::to_owned);
        let handle = spawn(ThreadKind::Control, "worker", name).unwrap();
        assert_eq!(handle.join().unwrap().as_deref(), Some("worker"));
        let handle = spawn(ThreadKind::Control, "broken", || panic!("on purpose")).unwrap();
        assert_eq!(handle.join(), None::<()>);
    }
    #[test]
    fn a_thread_that_cannot_be_confined_does_not_run_and_who_asked_is_told() {
        let (asked, started) = mpsc::sync_channel(1);
        let (ran, running) = mpsc::channel();
        let run = Box::new(move || {
            let _ = ran.send(());
        });
        let job = Job { kind: ThreadKind::Device, name: "d".to_owned(), run, asked: Some(asked) };
        start(job, Some(|_| Err("no filter".to_owned()))).unwrap();
        assert_eq!(started.recv().unwrap().unwrap_err().to_string(), "no filter");
        assert!(running.recv().is_err());
    }
}
