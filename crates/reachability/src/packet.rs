//! Packets.

use std::{fmt, net::IpAddr, str::FromStr};

/// An IP protocol that rules know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP of IPv4, or of IPv6 if the addresses are.
    Icmp,
    /// GRE.
    Gre,
}

impl Protocol {
    /// Whether it has ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Gre => "gre",
        })
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            "gre" => Ok(Self::Gre),
            _ => Err(()),
        }
    }
}

/// The first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it says it comes from.
    pub source: IpAddr,
    /// 0 for protocols without ports.
    pub source_port: u16,
    /// Where it wants to go.
    pub destination: IpAddr,
    /// 0 for protocols without ports.
    pub destination_port: u16,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol.has_ports() {
            let source = std::net::SocketAddr::new(self.source, self.source_port);
            let destination = std::net::SocketAddr::new(self.destination, self.destination_port);
            write!(f, "{} {source} -> {destination}", self.protocol)
        } else {
            write!(f, "{} {} -> {}", self.protocol, self.source, self.destination)
        }
    }
}
