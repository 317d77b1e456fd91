//! What a guest of the lab's network tests runs: it answers on ports, and asks others as it is told on
//! its standard input, one order a line. Linked statically by `lab_tests::prober`, since the tiny image
//! has no libraries. An answer is one line, which begins with the order's first two words.
//!
//! - `probe N MARKER PROBE...`: waits until each of the hosts asked answers on UDP port MARKER, then asks
//!   all at once. A PROBE is `t:ADDRESS:PORT`, `u:ADDRESS:PORT:SOURCE-PORT` or `i:ADDRESS`. The answer is
//!   `probe N ok` with a 1 or 0 for each, or `probe N late ADDRESS`.
//! - `flow N PROBE`: asks for ever, ten times a second, by one flow of TCP or UDP.
//! - `count N`: how many bytes came back to each flow so far.
//! - `heard N`: bytes that came in, by port: `t8001=0 u8001=12 ...`.
//!
//! With arguments it does one thing and ends:
//!
//! - `send SOURCE:PORT TARGET:PORT BYTES HEX`: HEX three times by UDP, filled up with zeroes to BYTES.
//! - `flood-new TARGET SECONDS`: packets by UDP, each of a new flow.
//! - `flood-tcp TARGET SECONDS`: attempts to connect, each of a new flow.
//! - `flood TARGET:PORT SECONDS`: packets by UDP, all of one flow, as fast as it can.
//! - `hold TARGET:PORT COUNT SECONDS`: so many connections of TCP, all open until the end.
//! - `names PORT`: tells whoever connects by TCP what address it comes from, for ever.
//! - `give TARGET:PORT BYTES`, `take PORT`: one transfer by TCP, and how many milliseconds it took.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    error::Error,
    fmt::Write as _,
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The tests use these ports and no others.
const PORTS: [u16; 4] = [8001, 8002, 8003, 8004];
/// Of UDP: open or closed by the first rules of a set, so that it is seen when a set is in force.
const MARKERS: [u16; 2] = [9001, 9002];
/// A guest under emulation answers in a tenth of it.
const PATIENCE: Duration = Duration::from_millis(700);
/// Until new rules must be in force.
const RULES_WITHIN: Duration = Duration::from_secs(20);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => obey(),
        ["send", source, target, bytes, hex] => send(source, target, bytes.parse()?, hex),
        ["flood-new", target, seconds] => flood_new(target.parse()?, seconds.parse()?),
        ["flood-tcp", target, seconds] => flood_tcp(target.parse()?, seconds.parse()?),
        ["flood", target, seconds] => flood(target.parse()?, seconds.parse()?),
        ["hold", target, count, seconds] => hold(target.parse()?, count.parse()?, seconds.parse()?),
        ["names", port] => names(port.parse()?),
        ["give", target, bytes] => give(target.parse()?, bytes.parse()?),
        ["take", port] => take(port.parse()?),
        _ => Err(format!("unknown arguments {arguments:?}").into()),
    }
}

/// Bytes that came in on each port.
type Heard = BTreeMap<String, Arc<AtomicU64>>;

fn serve() -> Outcome<Heard> {
    let mut heard = Heard::new();
    for port in PORTS {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let count = heard.entry(format!("t{port}")).or_default().clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || echo(stream, &count));
            }
        });
    }
    for port in PORTS.into_iter().chain(MARKERS) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let count = heard.entry(format!("u{port}")).or_default().clone();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    count.fetch_add(length as u64, Ordering::Relaxed);
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
    }
    Ok(heard)
}

fn echo(mut stream: TcpStream, count: &AtomicU64) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        count.fetch_add(length as u64, Ordering::Relaxed);
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

fn obey() -> Outcome<()> {
    let heard = serve()?;
    let mut flows: Vec<Arc<AtomicU64>> = Vec::new();
    println!("prober ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [order, number, rest @ ..] = &words[..] else { continue };
        let answer = match *order {
            "probe" => probe(rest)?,
            "flow" => {
                let probe: Probe = rest.first().ok_or("a flow needs a probe")?.parse()?;
                let echoed = Arc::new(AtomicU64::new(0));
                flows.push(echoed.clone());
                thread::spawn(move || flow(probe, &echoed));
                "started".to_owned()
            }
            "count" => {
                let counts = flows.iter().map(|one| one.load(Ordering::Relaxed).to_string());
                counts.collect::<Vec<_>>().join(" ")
            }
            "heard" => heard.iter().fold(String::new(), |mut text, (port, count)| {
                let _ = write!(text, "{port}={} ", count.load(Ordering::Relaxed));
                text
            }),
            _ => "what?".to_owned(),
        };
        println!("{order} {number} {answer}");
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    Tcp(SocketAddrV4),
    Udp { to: SocketAddrV4, source: u16 },
    Icmp(Ipv4Addr),
}

impl FromStr for Probe {
    type Err = Box<dyn Error + Send + Sync>;

    fn from_str(text: &str) -> Outcome<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        Ok(match parts[..] {
            ["t", address, port] => Self::Tcp(SocketAddrV4::new(address.parse()?, port.parse()?)),
            ["u", address, port, source] => Self::Udp {
                to: SocketAddrV4::new(address.parse()?, port.parse()?),
                source: source.parse()?,
            },
            ["i", address] => Self::Icmp(address.parse()?),
            _ => return Err(format!("{text:?} is no probe").into()),
        })
    }
}

impl Probe {
    fn target(self) -> Ipv4Addr {
        match self {
            Self::Tcp(to) | Self::Udp { to, .. } => *to.ip(),
            Self::Icmp(address) => address,
        }
    }

    fn is_answered(self) -> bool {
        match self {
            Self::Tcp(to) => TcpStream::connect_timeout(&to.into(), PATIENCE).is_ok(),
            Self::Udp { to, source } => asks(to, source, PATIENCE).unwrap_or(false),
            Self::Icmp(address) => Command::new("ping")
                .args(["-c", "1", "-W", "1", &address.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
        }
    }
}

/// Whether one packet comes back.
fn asks(to: SocketAddrV4, source: u16, patience: Duration) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"ask")?;
    Ok(socket.recv(&mut [0; 16]).is_ok())
}

fn probe(words: &[&str]) -> Outcome<String> {
    let (marker, probes) = words.split_first().ok_or("a probe needs a marker")?;
    let marker: u16 = marker.parse()?;
    let probes = probes.iter().map(|text| text.parse()).collect::<Outcome<Vec<Probe>>>()?;
    let targets: BTreeSet<Ipv4Addr> = probes.iter().map(|probe| probe.target()).collect();
    let end = Instant::now() + RULES_WITHIN;
    let late: Vec<Ipv4Addr> = thread::scope(|scope| {
        let waiting: Vec<_> = targets
            .into_iter()
            .map(|target| {
                scope.spawn(move || {
                    let marker = SocketAddrV4::new(target, marker);
                    let mut open = false;
                    while !open && Instant::now() < end {
                        open = asks(marker, 0, Duration::from_millis(150)).unwrap_or(false);
                    }
                    (!open).then_some(target)
                })
            })
            .collect();
        waiting.into_iter().filter_map(|one| one.join().ok().flatten()).collect()
    });
    if let Some(address) = late.first() {
        return Ok(format!("late {address}"));
    }
    let answers: String = thread::scope(|scope| {
        let asked: Vec<_> =
            probes.into_iter().map(|probe| scope.spawn(move || probe.is_answered())).collect();
        asked.into_iter().map(|one| if one.join().unwrap_or(false) { '1' } else { '0' }).collect()
    });
    Ok(format!("ok {answers}"))
}

/// Until the program ends.
fn flow(probe: Probe, echoed: &Arc<AtomicU64>) -> Outcome<()> {
    let pause = Duration::from_millis(100);
    match probe {
        Probe::Tcp(to) => {
            let mut stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            let (mut back, echoed) = (stream.try_clone()?, echoed.clone());
            thread::spawn(move || {
                let mut buffer = [0; 256];
                while let Ok(length @ 1..) = back.read(&mut buffer) {
                    echoed.fetch_add(length as u64, Ordering::Relaxed);
                }
            });
            loop {
                stream.write_all(b"x")?;
                thread::sleep(pause);
            }
        }
        Probe::Udp { to, source } => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source))?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            let mut buffer = [0; 256];
            loop {
                let _ = socket.send(b"x");
                thread::sleep(pause);
                while let Ok(length) = socket.recv(&mut buffer) {
                    echoed.fetch_add(length as u64, Ordering::Relaxed);
                }
            }
        }
        Probe::Icmp(_) => Err("a flow is of TCP or UDP".into()),
    }
}

fn send(source: &str, target: &str, bytes: usize, hex: &str) -> Outcome<()> {
    let mut data = (0..hex.len() / 2)
        .map(|at| hex.get(2 * at..2 * at + 2).map(|digits| u8::from_str_radix(digits, 16)))
        .map(|byte| Ok(byte.ok_or("not hexadecimal")??))
        .collect::<Outcome<Vec<u8>>>()?;
    data.resize(bytes.max(data.len()), 0);
    let socket = UdpSocket::bind(source.parse::<SocketAddrV4>()?)?;
    socket.set_broadcast(true)?;
    let target: SocketAddrV4 = target.parse()?;
    let sent = (0..3).filter(|_| socket.send_to(&data, target).is_ok()).count();
    println!("sent {sent}");
    Ok(())
}

/// Ports that a flood goes through, one after the other.
fn next(port: &mut u16) -> u16 {
    *port = port.checked_add(1).unwrap_or(1024);
    *port
}

fn flood_new(target: Ipv4Addr, seconds: u64) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut port, mut sent) = (10_000, 0_u64);
    'more: loop {
        // Another source makes the same targets new flows.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for _ in 0..50_000 {
            if Instant::now() > end {
                break 'more;
            }
            sent += u64::from(socket.send_to(b"x", (target, next(&mut port))).is_ok());
        }
    }
    println!("flooded {sent}");
    Ok(())
}

fn flood_tcp(target: Ipv4Addr, seconds: u64) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut port, mut tried) = (10_000, 0_u64);
    while Instant::now() < end {
        let to = SocketAddrV4::new(target, next(&mut port));
        let _ = TcpStream::connect_timeout(&to.into(), Duration::from_millis(1));
        tried += 1;
    }
    println!("flooded {tried}");
    Ok(())
}

fn flood(target: SocketAddrV4, seconds: u64) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let (data, mut sent) = ([0; 1200], 0_u64);
    while Instant::now() < end {
        sent += u64::from(socket.send_to(&data, target).is_ok());
    }
    println!("flooded {sent}");
    Ok(())
}

fn hold(target: SocketAddrV4, count: usize, seconds: u64) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut held = Vec::new();
    while held.len() < count && Instant::now() < end {
        held.extend(TcpStream::connect_timeout(&target.into(), PATIENCE).ok());
    }
    println!("held {}", held.len());
    thread::sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}

fn names(port: u16) -> Outcome<()> {
    let mut last: VecDeque<TcpStream> = VecDeque::new();
    for stream in TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?.incoming() {
        let Ok(mut stream) = stream else { continue };
        let peer = stream.peer_addr()?.ip();
        let _ = writeln!(stream, "{peer}");
        let _ = stream.shutdown(Shutdown::Write);
        // Whoever holds a connection open is not the first to lose it.
        last.push_back(stream);
        if last.len() > 900 {
            last.pop_front();
        }
    }
    Ok(())
}

/// Done when the other side, which has read all, closes. It is tried for a while, as the other side may
/// not have been started yet.
fn give(target: SocketAddrV4, bytes: usize) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(30);
    let mut stream = loop {
        match TcpStream::connect_timeout(&target.into(), Duration::from_secs(5)) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(200)),
            Err(error) => return Err(error.into()),
        }
    };
    let (begun, data, mut left) = (Instant::now(), [0; 16 << 10], bytes);
    while left > 0 {
        let piece = left.min(data.len());
        stream.write_all(&data[..piece])?;
        left -= piece;
    }
    stream.shutdown(Shutdown::Write)?;
    while let Ok(1..) = stream.read(&mut [0; 16]) {}
    println!("gave {bytes} {}", begun.elapsed().as_millis());
    Ok(())
}

fn take(port: u16) -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = stream.read(&mut buffer)?;
    let begun = Instant::now();
    while let length @ 1.. = stream.read(&mut buffer)? {
        bytes += length;
    }
    println!("took {bytes} {}", begun.elapsed().as_millis());
    Ok(())
}
