//! TCP load: bulk transfer both ways and one-byte round trips. The host runs `serve`.

use super::figure;
use anyhow::{Context as _, Result};
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

const CHUNK: usize = 128 << 10;

/// Answers clients for ever: the first byte of a connection says what they want.
pub fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    let mut buffer = vec![0; CHUNK];
    match kind[0] {
        b'u' => while stream.read(&mut buffer)? > 0 {},
        b'd' => loop {
            stream.write_all(&buffer)?;
        },
        _ => {
            stream.set_nodelay(true)?;
            loop {
                stream.read_exact(&mut kind)?;
                stream.write_all(&kind)?;
            }
        }
    }
    Ok(())
}

fn connect(peer: &str, kind: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(peer).with_context(|| format!("connect to {peer}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

/// Measures against the server at `peer` and prints the figures.
pub fn client(peer: &str, duration: Duration) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    for (name, kind) in [("tx", b'u'), ("rx", b'd')] {
        let mut stream = connect(peer, kind)?;
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < duration {
            bytes += match kind {
                b'u' => stream.write(&buffer)?,
                _ => stream.read(&mut buffer)?,
            };
        }
        let bits = bytes as f64 * 8.0;
        figure(&format!("net_{name}_mbit"), bits / start.elapsed().as_secs_f64() / 1e6);
    }
    let mut stream = connect(peer, b'p')?;
    let (start, mut trips) = (Instant::now(), Vec::new());
    while start.elapsed() < duration {
        let sent = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut buffer[..1])?;
        trips.push(sent.elapsed());
    }
    trips.sort();
    if let Some(median) = trips.get(trips.len() / 2) {
        figure("net_round_trip_us", median.as_secs_f64() * 1e6);
    }
    Ok(())
}
