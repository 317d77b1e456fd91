//! A guest without a machine: a namespace with a network interface whose frames a thread carries
//! to and from the tap of an ENI, as a VMM would.

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{
            self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sockopt,
        },
        time::TimeVal,
    },
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub const VNET_HEADER_BYTES: usize = 12;
const FRAME_BYTES: usize = 70_000;

/// The host's end of a guest's cable, for frames made by hand.
#[derive(Debug)]
pub struct Cable(File);

impl Cable {
    pub fn new(tap: OwnedFd) -> Self {
        Self(File::from(tap))
    }

    /// Sends one Ethernet frame into the host.
    pub fn send(&mut self, frame: &[u8]) {
        let mut bytes = vec![0; VNET_HEADER_BYTES];
        bytes.extend(frame);
        assert_eq!(self.0.write(&bytes).expect("write to the tap"), bytes.len());
    }

    /// Sends a frame until it is answered, as every client does: a tap drops what it should send in
    /// the first moments after its cable was plugged in.
    pub fn ask<T>(&mut self, frame: &[u8], wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        (0..10).find_map(|_| {
            self.send(frame);
            self.receive(Duration::from_millis(500), &wanted)
        })
    }

    /// The next frame the host sends for which `wanted` gives something.
    pub fn receive<T>(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; FRAME_BYTES];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).expect("poll");
            match self.0.read(&mut buffer) {
                Ok(bytes) => {
                    if let Some(found) = wanted(&buffer[VNET_HEADER_BYTES..bytes]) {
                        return Some(found);
                    }
                }
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "read from the tap: {e}"),
            }
        }
    }
}

/// A namespace that plays the guest.
#[derive(Debug)]
pub struct Guest {
    namespace: File,
    stop: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

impl Guest {
    /// Boots a guest with this address; `tap` is the host's end.
    pub fn boot(tap: OwnedFd, mac: &str, address: &str, gateway: &str) -> Self {
        let (mac, address, gateway) = (mac.to_owned(), address.to_owned(), gateway.to_owned());
        let (namespace, nic) = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace for the guest: run as root");
            let nic = open_nic();
            for command in [
                "link set lo up".to_owned(),
                format!("link set eth0 address {mac} mtu 1500 up"),
                format!("addr add {address} dev eth0"),
                format!("route add default via {gateway}"),
            ] {
                ip(&command);
            }
            (File::open("/proc/thread-self/ns/net").expect("the guest's namespace"), nic)
        })
        .join()
        .expect("boot a guest");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let pump = std::thread::spawn(move || pump(&mut File::from(tap), nic, &flag));
        Self { namespace, stop, pump: Some(pump) }
    }

    /// Runs `work` inside the guest.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let namespace = self.namespace.try_clone().expect("the guest's namespace");
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the guest");
            work()
        })
        .join()
        .expect("work in the guest")
    }

    pub fn ip(&self, command: &str) {
        let command = command.to_owned();
        self.run(move || ip(&command));
    }

    /// Whether an address answers an ICMP echo.
    pub fn pings(&self, to: Ipv4Addr) -> bool {
        self.run(move || {
            let socket = socket::socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::Icmp,
            )
            .expect("an ICMP socket");
            socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))
                .expect("set a timeout");
            // Type 8, code 0, checksum, identifier 1, sequence number 1.
            let echo = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
            let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
            if socket::sendto(socket.as_raw_fd(), &echo, &to, MsgFlags::empty()).is_err() {
                return false;
            }
            let mut buffer = [0; 128];
            // The first answer may be the echo itself, when a guest asks itself.
            (0..2).any(|_| {
                socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
                    .is_ok_and(|bytes| bytes >= 28 && buffer[20] == 0)
            })
        })
    }

    /// Answers every connection to a port with one line, for as long as the test runs.
    pub fn serve(&self, port: u16) {
        let listener = self.run(move || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen in the guest")
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|mut s| s.write_all(b"hello"));
            }
        });
    }

    /// Gives every connection to a port back what it sends, for as long as the test runs.
    pub fn echo(&self, port: u16) {
        let listener = self.run(move || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen in the guest")
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
    }

    /// Whether a server of [`Guest::serve`] can be reached.
    pub fn reaches(&self, to: Ipv4Addr, port: u16) -> bool {
        self.connect(to, port).is_ok_and(|mut stream| {
            let mut answer = [0; 5];
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set a timeout");
            stream.read_exact(&mut answer).is_ok() && &answer == b"hello"
        })
    }

    pub fn connect(&self, to: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        let to = SocketAddr::V4(SocketAddrV4::new(to, port));
        self.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(1200)))
    }
}

/// Tells everybody who connects from which address.
pub fn tell_names(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let name = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

/// What a server of [`tell_names`] says; nothing if it is not reached.
pub fn ask_name(to: Ipv4Addr, port: u16) -> String {
    let to = SocketAddr::V4(SocketAddrV4::new(to, port));
    let mut name = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_millis(1200)) {
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set a timeout");
        let _ = stream.read_to_string(&mut name);
    }
    name
}

/// Whether a connection to a server of [`Guest::echo`] still carries a word there and back.
pub fn echoes(mut stream: &TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.set_read_timeout(Some(Duration::from_millis(1500))).expect("set a timeout");
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut answer).is_ok()
}

pub fn ip(command: &str) {
    let output = Command::new("ip").args(command.split(' ')).output().expect("run ip (iproute2)");
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The guest's network interface, made in the calling thread's namespace.
fn open_nic() -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("open /dev/net/tun");
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"eth0") {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("flags fit");
    // SAFETY: the file is open, and TUNSETIFF reads and writes one ifreq, which `request` is.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(made, 0, "make eth0: {}", io::Error::last_os_error());
    let header: libc::c_int = 12;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which `header` is.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) };
    assert_eq!(set, 0, "set up eth0: {}", io::Error::last_os_error());
    file
}

/// Both ends use the same header, so that frames pass as they are.
fn pump(tap: &mut File, mut nic: File, stop: &AtomicBool) {
    let mut buffer = vec![0; FRAME_BYTES];
    let timeout = PollTimeout::from(50u8);
    while !stop.load(Ordering::Relaxed) {
        {
            let mut fds = [
                PollFd::new(tap.as_fd(), PollFlags::POLLIN),
                PollFd::new(nic.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut fds, timeout).is_err() {
                return;
            }
        }
        while let Ok(bytes) = tap.read(&mut buffer) {
            let _ = nic.write(&buffer[..bytes]);
        }
        while let Ok(bytes) = nic.read(&mut buffer) {
            // A tap that is gone swallows frames, like an unplugged cable.
            let _ = tap.write(&buffer[..bytes]);
        }
    }
}
