//! Where other hosts send packets of VPCs.

use crate::{config::Config, durable_file, error::Result, layout::Layout};
use ipnet::Ipv4Net;
use network::Underlay;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs as _, UdpSocket},
};

/// The host's place on the network that joins the hosts: as given, or from where it reaches its
/// controller. While names cannot be resolved it is where it was last time, since guests are in the
/// middle of their talks.
///
/// # Errors
/// When it cannot be kept.
pub fn find(config: &Config, layout: &Layout) -> Result<Option<Underlay>> {
    let port = config.underlay_port;
    let underlay = |address| Underlay { address, port };
    if let Some(address) = config.underlay_ip {
        return Ok(Some(underlay(address)));
    }
    let kept = layout.state().join("underlay-ip");
    let address = match towards(&config.controller) {
        Some(address) => address,
        None => {
            let last = fs::read_to_string(&kept).ok().and_then(|text| text.trim().parse().ok());
            tracing::warn!(
                controller = config.controller,
                ?last,
                "cannot tell from which address the controller is reached; --underlay-ip says it"
            );
            return Ok(last.map(underlay));
        }
    };
    if address.is_loopback() {
        return Ok(None);
    }
    durable_file::write(&kept, address.to_string().as_bytes())?;
    Ok(Some(underlay(address)))
}

/// Networks that instances must not reach from public addresses: those named, and the controller.
pub fn edge_denied(config: &Config) -> Vec<Ipv4Net> {
    let controller = resolve(&config.controller).map(|to| *to.ip()).filter(|ip| !ip.is_loopback());
    config.edge_deny.iter().copied().chain(controller.map(Ipv4Net::from)).collect()
}

fn resolve(url: &str) -> Option<SocketAddrV4> {
    let uri: tonic::transport::Uri = url.parse().ok()?;
    let port = uri.port_u16().unwrap_or(80);
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, port).to_socket_addrs().ok()?;
    found.find_map(|to| match to {
        SocketAddr::V4(to) => Some(to),
        SocketAddr::V6(_) => None,
    })
}

/// The address packets to this URL's host come from; none if that is not known, or not IPv4.
fn towards(url: &str) -> Option<Ipv4Addr> {
    let to = resolve(url)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Sends nothing: it only asks for the route.
    socket.connect(to).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_on_this_machine_is_reached_by_loopback() {
        assert_eq!(towards("http://127.0.0.1:7800"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(towards("http://name.invalid:7800"), None);
        assert_eq!(towards("no url"), None);
    }
}
