//! Sockets of the host inside a VPC.

use crate::{Error, SERVICE_ADDRESS, namespace::Namespace};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const BACKLOG: u32 = 1024;

async fn socket(namespace: &Namespace) -> Result<TcpSocket, Error> {
    namespace
        .run(TcpSocket::new_v4)
        .await?
        .map_err(|e| Error::io(format!("make a socket in {}", namespace.name), e))
}

pub(crate) async fn listen(
    namespace: &Namespace,
    address: Ipv4Addr,
    port: u16,
) -> Result<TcpListener, Error> {
    let socket = socket(namespace).await?;
    let to = SocketAddrV4::new(address, port);
    socket
        .set_reuseaddr(true)
        .and_then(|()| socket.bind(to.into()))
        .and_then(|()| socket.listen(BACKLOG))
        .map_err(|e| Error::io(format!("listen on {to} in {}", namespace.name), e))
}

pub(crate) async fn connect(
    namespace: &Namespace,
    vni: u32,
    to: SocketAddrV4,
) -> Result<TcpStream, Error> {
    let fail = |source| Error::Connect { to, vni, source };
    let socket = socket(namespace).await?;
    socket.bind(SocketAddrV4::new(SERVICE_ADDRESS, 0).into()).map_err(fail)?;
    timeout(CONNECT_TIMEOUT, socket.connect(to.into()))
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        .map_err(fail)
}
