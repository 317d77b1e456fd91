use super::*;
use crate::{events::Events, irq::IrqLine, legacy::serial::SerialPort};
use std::{
    io::Read as _,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Instant,
};

struct Bench {
    dir: tempfile::TempDir,
    output: Output,
    port: Arc<SerialPort>,
    thread: ConsoleThread,
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = ConsoleLog::open(&dir.path().join("log"), 0).unwrap();
        Self::start_with(dir, log)
    }

    fn start_with(dir: tempfile::TempDir, log: ConsoleLog) -> Self {
        let output = Output::new().unwrap();
        let line = IrqLine::unconnected().unwrap();
        let port = Arc::new(SerialPort::new(line, output.clone()));
        let console = Console {
            log: Some(log),
            listener: Some(UnixListener::bind(dir.path().join("socket")).unwrap()),
            stdio: false,
        };
        let thread = console.start(output.clone(), Arc::clone(&port), Events::new()).unwrap();
        Self { dir, output, port, thread }
    }

    fn attach(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// What the guest writes goes through the UART's data register.
    fn guest_writes(&self, bytes: &[u8]) {
        use crate::bus::BusDevice as _;
        for byte in bytes {
            self.port.write(0x3f8, 0, &[*byte]);
        }
    }

    fn guest_reads(&self) -> Option<u8> {
        use crate::bus::BusDevice as _;
        let mut status = [0];
        self.port.read(0x3f8, 5, &mut status);
        let mut byte = [0];
        (status[0] & 1 != 0).then(|| {
            self.port.read(0x3f8, 0, &mut byte);
            byte[0]
        })
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

fn receive(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Attaching is seen by the console a moment later: write until it comes back.
fn attached(bench: &Bench) -> UnixStream {
    let mut stream = bench.attach();
    stream.set_nonblocking(true).unwrap();
    let mut byte = [0];
    while stream.read(&mut byte).is_err() {
        bench.guest_writes(b".");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Swallow the dots still under way.
    std::thread::sleep(Duration::from_millis(50));
    while stream.read(&mut byte).is_ok_and(|len| len > 0) {}
    stream.set_nonblocking(false).unwrap();
    stream
}

#[test]
fn every_byte_is_logged_before_the_thread_ends() {
    let bench = Bench::start();
    bench.guest_writes(b"hello from the guest\n");
    let log = bench.log();
    let Bench { dir, thread, .. } = bench;
    thread.finish();
    assert_eq!(std::fs::read(log).unwrap(), b"hello from the guest\n");
    drop(dir);
}

#[test]
fn a_new_client_replaces_the_old_one_and_sees_output_live() {
    let bench = Bench::start();
    let mut first = attached(&bench);
    let mut second = attached(&bench);
    assert_eq!(first.read(&mut [0; 64]).unwrap(), 0);
    bench.guest_writes(b"login: ");
    assert_eq!(receive(&mut second, 7), b"login: ");
    bench.thread.finish();
}

#[test]
fn all_that_is_typed_reaches_the_guest_in_order_past_the_size_of_its_buffer() {
    let bench = Bench::start();
    let mut client = attached(&bench);
    let typed: Vec<u8> = (0..1000).map(|n| b'a' + (n % 26) as u8).collect();
    client.write_all(&typed).unwrap();
    let mut read = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while read.len() < typed.len() && Instant::now() < end {
        match bench.guest_reads() {
            Some(byte) => read.push(byte),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert_eq!(read, typed);
    bench.thread.finish();
}

#[test]
fn a_log_that_takes_nothing_stops_neither_the_guest_nor_who_watches_it() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let log = ConsoleLog::from_file(full, 0).unwrap();
    let bench = Bench::start_with(tempfile::tempdir().unwrap(), log);
    let mut client = attached(&bench);
    bench.guest_writes(b"still here");
    assert_eq!(receive(&mut client, 10), b"still here");
    bench.thread.finish();
}

#[test]
fn a_client_that_never_reads_does_not_block_the_guest() {
    let bench = Bench::start();
    let deaf = attached(&bench);
    let begin = Instant::now();
    let mut output = bench.output.clone();
    let line = [b'x'; 4096];
    for _ in 0..1024 {
        output.write_all(&line).unwrap();
    }
    assert!(begin.elapsed() < BUFFER_WAIT, "{:?}", begin.elapsed());
    let log = bench.log();
    let Bench { dir, thread, .. } = bench;
    thread.finish();
    assert!(std::fs::metadata(log).unwrap().len() >= 4 << 20);
    drop((dir, deaf));
}

#[test]
fn a_vcpu_that_waits_for_its_output_to_be_taken_does_not_stop_who_takes_it() {
    use crate::bus::BusDevice as _;
    let mut output = Output::new().unwrap();
    let line = IrqLine::unconnected().unwrap();
    let port = Arc::new(SerialPort::new(line, output.clone()));
    output.write_all(&[b'x'; BUFFER_LIMIT]).unwrap();
    let begin = Instant::now();
    let vcpu = {
        let port = Arc::clone(&port);
        std::thread::spawn(move || port.write(0x3f8, 0, b"y"))
    };
    while port.type_in(b"").is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(output.take().len(), BUFFER_LIMIT);
    vcpu.join().unwrap();
    assert!(begin.elapsed() < BUFFER_WAIT, "{:?}", begin.elapsed());
    assert_eq!(output.take(), [b'y']);
    assert_eq!(port.type_in(b"z"), Some(1));
}
