//! One socket per namespace. The tap a packet came in by tells whose it is.

use super::{Lease, reply, request::Request};
use crate::{Error, namespace::Namespace};
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};
use std::{
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{io::Interest, net::UdpSocket, task::JoinHandle};

const SERVER_PORT: u16 = 67;
const PACKET_BYTES: usize = 2048;
/// After an error of the socket, so that a lasting one does not spin.
const PAUSE_ON_ERROR: Duration = Duration::from_millis(200);

type Leases = Arc<RwLock<HashMap<u32, Lease>>>;

/// The DHCP server of one namespace. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    leases: Leases,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(namespace: &Namespace) -> Result<Self, Error> {
        let what = || format!("start the DHCP server of {}", namespace.name);
        let socket = namespace.run(bind).await?.map_err(|e| Error::io(what(), e))?;
        let socket = UdpSocket::from_std(socket).map_err(|e| Error::io(what(), e))?;
        let leases = Leases::default();
        let task = tokio::spawn(serve(socket, Arc::clone(&leases), namespace.name.clone()));
        Ok(Self { leases, task })
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Replaces all leases; keys are interface indices.
    pub(crate) fn set_leases(&self, leases: HashMap<u32, Lease>) {
        *self.leases.write().unwrap_or_else(PoisonError::into_inner) = leases;
    }

    pub(crate) fn set_lease(&self, link: u32, lease: Lease) {
        self.leases.write().unwrap_or_else(PoisonError::into_inner).insert(link, lease);
    }
}

fn bind() -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT))?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    Ok(socket)
}

async fn serve(socket: UdpSocket, leases: Leases, namespace: String) {
    loop {
        if let Err(e) = serve_one(&socket, &leases).await {
            tracing::debug!(namespace, error = %e, "DHCP");
            tokio::time::sleep(PAUSE_ON_ERROR).await;
        }
    }
}

async fn serve_one(socket: &UdpSocket, leases: &Leases) -> io::Result<()> {
    let mut buffer = [0; PACKET_BYTES];
    let (bytes, link) =
        socket.async_io(Interest::READABLE, || receive(socket, &mut buffer)).await?;
    let Some(request) = buffer.get(..bytes).and_then(Request::parse) else { return Ok(()) };
    let lease = leases.read().unwrap_or_else(PoisonError::into_inner).get(&link).cloned();
    let Some(lease) = lease else { return Ok(()) };
    let Some((reply, to)) = reply::answer(&request, &lease) else { return Ok(()) };
    socket.async_io(Interest::WRITABLE, || send(socket, link, lease.gateway, to, &reply)).await
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut control = cmsg_space!(libc::in_pktinfo);
    let message = recvmsg::<SockaddrIn>(
        socket.as_fd().as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let link = message.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex).ok(),
        _ => None,
    });
    // Index 0 belongs to no interface, so to no lease.
    Ok((message.bytes, link.unwrap_or(0)))
}

fn send(
    socket: &UdpSocket,
    link: u32,
    from: Ipv4Addr,
    to: SocketAddrV4,
    bytes: &[u8],
) -> io::Result<()> {
    let info = libc::in_pktinfo {
        ipi_ifindex: i32::try_from(link).map_err(io::Error::other)?,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    sendmsg(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::Ipv4PacketInfo(&info)],
        MsgFlags::empty(),
        Some(&SockaddrIn::from(to)),
    )?;
    Ok(())
}
