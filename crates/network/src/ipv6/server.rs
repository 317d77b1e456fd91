//! Two sockets per namespace. The tap a packet came in by tells whose it is.

use super::{Lease6, advert, lease};
use crate::{Error, GATEWAY_MAC, namespace::Namespace};
use nix::{
    cmsg_space,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol,
        SockType, SockaddrIn6, SockaddrLike, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
    },
};
use std::{
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{io::Interest, net::UdpSocket, task::JoinHandle};

const SERVER_PORT: u16 = 547;
const PACKET_BYTES: usize = 2048;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_DHCP_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// A guest's router lasts for hours; this is for guests that ask too early, or whose question is lost.
const ADVERTISE_EVERY: Duration = Duration::from_secs(15);
/// After an error of a socket, so that a lasting one does not spin.
const PAUSE_ON_ERROR: Duration = Duration::from_millis(200);

type Leases = Arc<RwLock<HashMap<u32, Lease6>>>;

/// The router and DHCPv6 server of one namespace. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Server6 {
    leases: Leases,
    sockets: Arc<Sockets>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Sockets {
    /// A raw socket, waited for like any that carries datagrams.
    router: UdpSocket,
    dhcp: UdpSocket,
    mtu: u16,
}

impl Drop for Server6 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server6 {
    pub(crate) async fn start(namespace: &Namespace, mtu: u16) -> Result<Self, Error> {
        let fail =
            |e: io::Error| Error::io(format!("start the IPv6 router of {}", namespace.name), e);
        let (router, dhcp) = namespace.run(open).await?.map_err(fail)?;
        let sockets = Sockets {
            router: UdpSocket::from_std(router.into()).map_err(fail)?,
            dhcp: UdpSocket::from_std(dhcp.into()).map_err(fail)?,
            mtu,
        };
        let (sockets, leases) = (Arc::new(sockets), Leases::default());
        let serving = serve(Arc::clone(&sockets), Arc::clone(&leases), namespace.name.clone());
        Ok(Self { leases, sockets, task: tokio::spawn(serving) })
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Replaces all leases; keys are interface indices.
    pub(crate) fn set_leases(&self, new: HashMap<u32, Lease6>) -> Result<(), Error> {
        let fail = |e: io::Error| Error::io("listen for DHCPv6 on a tap", e);
        let mut leases = self.leases.write().unwrap_or_else(PoisonError::into_inner);
        for link in new.keys().filter(|link| !leases.contains_key(link)) {
            join(&self.sockets.dhcp, ALL_DHCP_SERVERS, *link).map_err(fail)?;
            join(&self.sockets.router, ALL_ROUTERS, *link).map_err(fail)?;
        }
        *leases = new;
        Ok(())
    }
}

/// A group may be joined again after its interface was made anew, so joining twice is no error.
fn join(fd: &UdpSocket, group: Ipv6Addr, link: u32) -> io::Result<()> {
    let request = libc::ipv6_mreq {
        ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
        ipv6mr_interface: link,
    };
    // SAFETY: the option reads one ipv6_mreq, which `request` is.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            libc::socklen_t::try_from(size_of::<libc::ipv6_mreq>()).map_err(io::Error::other)?,
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
            e => Err(e),
        },
    }
}

fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let router = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    for (option, value) in [(libc::IPV6_UNICAST_HOPS, 255), (libc::IPV6_MULTICAST_HOPS, 255)] {
        set_int(&router, option, value)?;
    }
    setsockopt(&router, sockopt::Ipv6RecvPacketInfo, &true)?;
    let dhcp = socket(AddressFamily::Inet6, SockType::Datagram, flags, None)?;
    setsockopt(&dhcp, sockopt::Ipv6V6Only, &true)?;
    setsockopt(&dhcp, sockopt::Ipv6RecvPacketInfo, &true)?;
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, SERVER_PORT, 0, 0);
    bind(dhcp.as_raw_fd(), &SockaddrIn6::from(any))?;
    Ok((router, dhcp))
}

fn set_int(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the options read one int, which `value` is.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IPV6,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

async fn serve(sockets: Arc<Sockets>, leases: Leases, namespace: String) {
    let mut clock = tokio::time::interval(ADVERTISE_EVERY);
    loop {
        let outcome = tokio::select! {
            outcome = solicited(&sockets, &leases) => outcome,
            outcome = leased(&sockets, &leases) => outcome,
            _ = clock.tick() => {
                let links: Vec<u32> = read(&leases, |leases| leases.keys().copied().collect());
                for link in links {
                    // A tap without a guest takes nothing.
                    let _ = advertise(&sockets, link);
                }
                Ok(())
            }
        };
        if let Err(e) = outcome {
            tracing::debug!(namespace, error = %e, "IPv6 router");
            tokio::time::sleep(PAUSE_ON_ERROR).await;
        }
    }
}

fn read<R>(leases: &Leases, work: impl FnOnce(&HashMap<u32, Lease6>) -> R) -> R {
    work(&leases.read().unwrap_or_else(PoisonError::into_inner))
}

/// Answers one packet to the router's socket.
async fn solicited(sockets: &Sockets, leases: &Leases) -> io::Result<()> {
    let mut buffer = [0; PACKET_BYTES];
    let socket = &sockets.router;
    let received = socket.async_io(Interest::READABLE, || receive(socket, &mut buffer));
    let (bytes, link, _) = received.await?;
    let asks = buffer.get(..bytes).and_then(<[u8]>::first) == Some(&advert::ROUTER_SOLICITATION);
    if asks && read(leases, |leases| leases.contains_key(&link)) {
        advertise(sockets, link)?;
    }
    Ok(())
}

fn advertise(sockets: &Sockets, link: u32) -> io::Result<()> {
    let message = advert::advertisement(GATEWAY_MAC, sockets.mtu);
    send(&sockets.router, link, SocketAddrV6::new(ALL_NODES, 0, 0, link), &message)
}

/// Answers one DHCPv6 packet.
async fn leased(sockets: &Sockets, leases: &Leases) -> io::Result<()> {
    let mut buffer = [0; PACKET_BYTES];
    let socket = &sockets.dhcp;
    let received = socket.async_io(Interest::READABLE, || receive(socket, &mut buffer));
    let (bytes, link, from) = received.await?;
    let Some(packet) = buffer.get(..bytes) else { return Ok(()) };
    // DUID-LL of an Ethernet interface.
    let duid = [[0, 3, 0, 1].as_slice(), &GATEWAY_MAC].concat();
    let answer = read(leases, |leases| lease::answer(packet, leases.get(&link)?, &duid));
    match (answer, from) {
        (Some(answer), Some(from)) => {
            let to = SocketAddrV6::new(*from.ip(), from.port(), 0, link);
            send(&sockets.dhcp, link, to, &answer)
        }
        _ => Ok(()),
    }
}

/// Bytes, the interface, and the sender.
fn receive(fd: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, u32, Option<SocketAddrV6>)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut control = cmsg_space!(libc::in6_pktinfo);
    let message =
        recvmsg::<SockaddrIn6>(fd.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
    let link = message.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
        _ => None,
    });
    let from = message.address.filter(|a| a.family() == Some(AddressFamily::Inet6));
    // Index 0 belongs to no interface, so to no lease.
    Ok((message.bytes, link.unwrap_or(0), from.map(SocketAddrV6::from)))
}

fn send(fd: &UdpSocket, link: u32, to: SocketAddrV6, bytes: &[u8]) -> io::Result<()> {
    let info =
        libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: [0; 16] }, ipi6_ifindex: link };
    sendmsg(
        fd.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::Ipv6PacketInfo(&info)],
        MsgFlags::empty(),
        Some(&SockaddrIn6::from(to)),
    )?;
    Ok(())
}
