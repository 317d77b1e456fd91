//! Frames by hand, from one ENI's tap to another's.

use anyhow::{Context as _, Result, bail, ensure};
use api::host::EniSpec;
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

const VNET_HEADER: usize = 12;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const PAYLOAD: usize = 18;
const SOURCE_PORT: usize = VNET_HEADER + ETHERNET + IPV4;
/// A packet that has not come after this is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Two taps and the packet that goes from the first to the second.
pub struct Wire {
    sender: File,
    receiver: File,
    frame: Vec<u8>,
    answer: Vec<u8>,
    buffer: Vec<u8>,
}

impl Wire {
    /// Between two ENIs of a VPC.
    pub fn new(sender: OwnedFd, receiver: OwnedFd, from: &EniSpec, to: &EniSpec) -> Result<Self> {
        let (near, far) = (from.private_ip.parse()?, to.private_ip.parse()?);
        Ok(Self {
            sender: sender.into(),
            receiver: receiver.into(),
            frame: frame(&from.mac, near, far)?,
            answer: frame(&to.mac, far, near)?,
            buffer: vec![0; 2048],
        })
    }

    /// Sends until a packet comes through: a tap drops what it should send in the first moments.
    pub fn warm_up(&mut self) -> Result<()> {
        for _ in 0..50 {
            self.send(39_999)?;
            thread::sleep(Duration::from_millis(20));
            if self.take_all()? > 0 {
                return Ok(());
            }
        }
        bail!("no packet of 50 came through")
    }

    /// Sends one packet and answers it: from then on the flow is established.
    pub fn establish(&mut self, port: u16) -> Result<()> {
        self.send(port)?;
        let ports = SOURCE_PORT..SOURCE_PORT + 4;
        let swapped = [&53u16.to_be_bytes()[..], &port.to_be_bytes()].concat();
        self.answer[ports].copy_from_slice(&swapped);
        self.receiver.write_all(&self.answer).context("write to the tap")
    }

    /// Sends one packet after another, each when the one before has come.
    pub fn packets_per_second(&mut self, packets: u32, port: impl Fn(u32) -> u16) -> Result<f64> {
        self.take_all()?;
        let start = Instant::now();
        for number in 0..packets {
            self.send(port(number))?;
            let sent = Instant::now();
            while self.take()?.is_none() {
                ensure!(sent.elapsed() < PATIENCE, "packet {number} did not come through");
            }
        }
        Ok(f64::from(packets) / start.elapsed().as_secs_f64())
    }

    fn send(&mut self, port: u16) -> Result<()> {
        self.frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
        self.sender.write_all(&self.frame).context("write to the tap")
    }

    /// The next packet of ours; others, such as ARP, are passed over.
    fn take(&mut self) -> Result<Option<()>> {
        match self.receiver.read(&mut self.buffer) {
            Ok(len) => {
                let port = self.buffer.get(SOURCE_PORT + 2..SOURCE_PORT + 4);
                let ours = len >= SOURCE_PORT + UDP && port == Some(&53u16.to_be_bytes()[..]);
                Ok(ours.then_some(()))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e).context("read from the tap"),
        }
    }

    fn take_all(&mut self) -> Result<usize> {
        let mut taken = 0;
        loop {
            match self.receiver.read(&mut self.buffer) {
                Ok(len) if len >= SOURCE_PORT + UDP => taken += 1,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
                Err(e) => return Err(e).context("read from the tap"),
            }
        }
    }
}

/// A UDP packet to port 53 as a guest sends it.
fn frame(mac: &str, from: Ipv4Addr, to: Ipv4Addr) -> Result<Vec<u8>> {
    let source = mac.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let source: Vec<u8> = source.collect::<Result<_, _>>().with_context(|| format!("MAC {mac}"))?;
    let mut frame = vec![0; VNET_HEADER];
    frame.extend(network::GATEWAY_MAC);
    frame.extend(source);
    frame.extend([0x08, 0x00]);
    let length = u16::try_from(IPV4 + UDP + PAYLOAD)?;
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    // No fragments; 64 hops; UDP; the checksum comes when all else is there.
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend([0, 0]);
    frame.extend(53u16.to_be_bytes());
    frame.extend(u16::try_from(UDP + PAYLOAD)?.to_be_bytes());
    // UDP without a checksum.
    frame.extend([0; 2 + PAYLOAD]);
    Ok(frame)
}

/// The internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        let ip = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        assert_eq!(checksum(&ip), 0xb861);
        let frame = frame("00:16:3e:00:00:01", [10, 0, 0, 1].into(), [10, 0, 0, 2].into()).unwrap();
        assert_eq!(frame.len(), VNET_HEADER + ETHERNET + IPV4 + UDP + PAYLOAD);
        assert_eq!(checksum(&frame[VNET_HEADER + ETHERNET..][..IPV4]), 0);
    }
}
