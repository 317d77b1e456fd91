//! The lease's files: one for each epoch, named by its number, in a directory of the lease's own.
//!
//! An epoch is made by a link to a file that is complete, so that it is there whole or not at all and
//! only one host can make it. Overwriting puts a new file in its place. The highest is never removed.
//!
//! The file system must show a name to every host as soon as the call that made it has returned. NFS
//! does with `lookupcache=none,actimeo=0`.

use super::{Op, Outcome, Record};
use crate::{
    durable_file,
    error::{Error, FileContext as _, Result},
    layout::{make_dir, names_in, remove_file},
};
use std::{fs, io, path::PathBuf};

const SUFFIX: &str = ".epoch";
/// Lower epochs that are left for people to look at.
const KEPT: usize = 3;
/// An epoch that is removed between the look at the names and the look into it was not the highest.
const LOOKS: usize = 10;

/// A lease's directory, as this host sees it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Goes into the names of files that are not complete yet: other hosts have their own.
    owner: String,
}

impl Directory {
    /// Opens the directory, which is made if it is not there. `owner` must be fit for a file name,
    /// and of this process alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: impl Into<PathBuf>, owner: &str) -> Result<Self> {
        let path = path.into();
        make_dir(&path, 0o700)?;
        Ok(Self { path, owner: owner.to_owned() })
    }

    /// Does what a lease asks for.
    ///
    /// # Errors
    /// What the file system said; the lease is to be told [`Outcome::Failed`].
    pub fn run(&self, op: &Op) -> Result<Outcome> {
        match op {
            Op::Look => self.look().map(Outcome::Seen),
            Op::Make(record) => self.make(record).map(Outcome::Made),
            Op::Write(record) => self.write(record).map(|()| Outcome::Written),
        }
    }

    fn file(&self, epoch: u64) -> PathBuf {
        self.path.join(format!("{epoch:020}{SUFFIX}"))
    }

    /// Ascending.
    fn epochs(&self) -> Result<Vec<u64>> {
        let number = |name: &String| name.strip_suffix(SUFFIX)?.parse().ok();
        let mut epochs: Vec<u64> = names_in(&self.path)?.iter().filter_map(number).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    fn look(&self) -> Result<Option<Record>> {
        for _ in 0..LOOKS {
            let Some(epoch) = self.epochs()?.pop() else { return Ok(None) };
            let path = self.file(epoch);
            if let Some(record) = durable_file::read_json::<Record>(&path)? {
                if record.epoch != epoch {
                    let detail = format!("it is of epoch {}", record.epoch);
                    return Err(Error::Damaged { path, detail });
                }
                return Ok(Some(record));
            }
        }
        let path = self.path.clone();
        Err(Error::Damaged { path, detail: "its epochs come and go".to_owned() })
    }

    fn complete(&self, record: &Record) -> Result<PathBuf> {
        let path = self.path.join(format!("{}.new", self.owner));
        durable_file::write_json(&path, record)?;
        Ok(path)
    }

    fn make(&self, record: &Record) -> Result<bool> {
        let new = self.complete(record)?;
        let file = self.file(record.epoch);
        let linked = fs::hard_link(&new, &file);
        remove_file(&new)?;
        match linked {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(e).at("make", &file),
        }
        durable_file::sync_dir(&self.path)?;
        let epochs = self.epochs()?;
        for old in epochs.iter().rev().skip(1 + KEPT) {
            remove_file(&self.file(*old))?;
        }
        Ok(true)
    }

    fn write(&self, record: &Record) -> Result<()> {
        let new = self.complete(record)?;
        durable_file::rename(&new, &self.file(record.epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, Mark, Terms};
    use std::{
        env,
        io::{Read as _, Write as _},
        path::Path,
        process::{Child, Command, Stdio},
        thread,
        time::{Duration, Instant},
    };

    const TERMS: Terms =
        Terms { hold: Duration::from_millis(600), stop: Duration::from_millis(100) };
    /// Tells the test's own executable that it is one of the hosts.
    const HOST: &str = "ECS_TEST_LEASE_HOST";

    fn record(epoch: u64, mark: Mark) -> Record {
        Record { epoch, token: format!("t-{epoch}"), beat: 0, mark }
    }

    #[test]
    fn an_epoch_is_made_once_and_the_highest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Directory::open(dir.path(), "a"), Directory::open(dir.path(), "b"));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.run(&Op::Look).unwrap(), Outcome::Seen(None));
        for epoch in 1..10 {
            let first = a.run(&Op::Make(record(epoch, Mark::Held))).unwrap();
            let second = b.run(&Op::Make(record(epoch, Mark::Settled))).unwrap();
            assert_eq!((first, second), (Outcome::Made(true), Outcome::Made(false)));
        }
        assert_eq!(b.run(&Op::Look).unwrap(), Outcome::Seen(Some(record(9, Mark::Held))));
        a.run(&Op::Write(record(9, Mark::Settled))).unwrap();
        assert_eq!(b.run(&Op::Look).unwrap(), Outcome::Seen(Some(record(9, Mark::Settled))));
        assert_eq!(names_in(dir.path()).unwrap().len(), 1 + KEPT);
        // A late one of long ago changes nothing.
        b.run(&Op::Write(record(2, Mark::Held))).unwrap();
        assert_eq!(a.run(&Op::Look).unwrap(), Outcome::Seen(Some(record(9, Mark::Settled))));
        fs::write(a.file(10), "{").unwrap();
        assert!(matches!(a.run(&Op::Look), Err(Error::Damaged { .. })));
    }

    /// One host: writes lines with its epoch to a shared file while it may.
    fn be_a_host(dir: &Path) {
        let owner = format!("p-{}", std::process::id());
        let directory = Directory::open(dir.join("lease"), &owner).unwrap();
        let mut shared = fs::OpenOptions::new().append(true).open(dir.join("written")).unwrap();
        let start = Instant::now();
        let mut lease = Lease::new(TERMS, owner);
        lease.want(start.elapsed());
        while start.elapsed() < Duration::from_secs(60) {
            if let Some(op) = lease.poll(start.elapsed()) {
                let outcome = directory.run(&op).unwrap_or(Outcome::Failed);
                lease.done(start.elapsed(), outcome);
            }
            if let Some(epoch) = lease.epoch().filter(|_| lease.may_use(start.elapsed())) {
                let line = format!("{epoch} {}\n", std::process::id());
                shared.write_all(line.as_bytes()).unwrap();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    struct Hosts(Vec<Child>);

    impl Hosts {
        fn add(&mut self, dir: &Path) {
            let me = env::current_exe().unwrap();
            let name = "lease::directory::tests::processes_of_several_hosts_take_turns";
            let child = Command::new(me)
                .args(["--exact", name])
                .env(HOST, dir)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            self.0.push(child);
        }

        fn find(&mut self, pid: u32) -> &mut Child {
            self.0.iter_mut().find(|child| child.id() == pid).unwrap()
        }
    }

    impl Drop for Hosts {
        fn drop(&mut self) {
            for child in &mut self.0 {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    fn written(dir: &Path) -> Vec<(u64, u32)> {
        let mut text = String::new();
        fs::File::open(dir.join("written")).unwrap().read_to_string(&mut text).unwrap();
        let line = |line: &str| {
            let (epoch, pid) = line.split_once(' ').unwrap();
            (epoch.parse().unwrap(), pid.parse().unwrap())
        };
        text.lines().map(line).collect()
    }

    /// The process that has written last, once it is another than `not`.
    fn writer(dir: &Path, not: u32) -> u32 {
        let start = Instant::now();
        loop {
            if let Some((_, pid)) = written(dir).last().filter(|(_, pid)| *pid != not) {
                return *pid;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "nobody takes over from {not}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(pid: u32, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    #[test]
    fn processes_of_several_hosts_take_turns() {
        if let Some(dir) = env::var_os(HOST) {
            return be_a_host(Path::new(&dir));
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("written"), "").unwrap();
        let mut hosts = Hosts(Vec::new());
        (0..3).for_each(|_| hosts.add(dir));
        // One dies, one stands still until another has it, and then goes on.
        let first = writer(dir, 0);
        hosts.find(first).kill().unwrap();
        let second = writer(dir, first);
        signal(second, rustix::process::Signal::STOP);
        hosts.add(dir);
        let third = writer(dir, second);
        signal(second, rustix::process::Signal::CONT);
        thread::sleep(Duration::from_millis(1500));
        let all = written(dir);
        let last = all.last().unwrap();
        assert!(last.0 >= 3 && last.1 == third, "{last:?}");
        for pair in all.windows(2) {
            let [(before, by), (epoch, pid)] = pair else { unreachable!() };
            assert!(epoch > before || (epoch, pid) == (before, by), "{pair:?}");
        }
    }
}
