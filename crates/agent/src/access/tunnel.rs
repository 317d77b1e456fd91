//! A TCP connection to an instance, made inside its VPC and judged by its security groups.

use super::error;
use crate::host::Host;
use api::host::{InstanceSpec, TunnelData};
use std::net::{Ipv4Addr, SocketAddrV4};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tonic::{Code, Status, Streaming};

const CHUNK: usize = 32 << 10;

/// Connects to the address and port the first message names.
pub async fn connect(
    host: &Host,
    instance: &InstanceSpec,
    first: &TunnelData,
) -> Result<TcpStream, Status> {
    let id = &instance.instance_id;
    let eni = if first.private_ip.is_empty() {
        instance.enis.iter().find(|e| e.primary).or(instance.enis.first())
    } else {
        instance.enis.iter().find(|e| e.private_ip == first.private_ip)
    };
    let eni = eni.ok_or_else(|| {
        let message = format!("instance {id} has no address {:?}", first.private_ip);
        error(Code::NotFound, "InvalidPrivateIpAddress.NotFound", message)
    })?;
    let invalid = |what: &str| {
        error(Code::InvalidArgument, "InvalidParameter", format!("instance {id}: {what}"))
    };
    let port = u16::try_from(first.port).ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| invalid("the port must be 1 to 65535"))?;
    let address: Ipv4Addr =
        eni.private_ip.parse().map_err(|_| invalid("its address is not an IPv4 address"))?;
    let spec = host.current_spec();
    let vpc = spec.iter().flat_map(|s| &s.vpcs).find(|v| v.vpc_id == eni.vpc_id);
    let vni = vpc.map(|v| v.vni).ok_or_else(|| {
        let message = format!("VPC {} is not on this host", eni.vpc_id);
        error(Code::NotFound, "InvalidVpcId.NotFound", message)
    })?;
    host.networks
        .host()
        .tcp_connect(vni, SocketAddrV4::new(address, port))
        .await
        .map_err(|e| error(Code::Unavailable, "TunnelFailed", e.to_string()))
}

/// Carries bytes both ways. An end of one direction leaves the other open.
pub async fn carry(
    connection: TcpStream,
    first_bytes: Vec<u8>,
    mut input: Streaming<TunnelData>,
    output: mpsc::Sender<Result<TunnelData, Status>>,
) {
    let (mut from_instance, mut to_instance) = connection.into_split();
    // True: the person has no more to say, but the instance may still answer.
    let up = async {
        if to_instance.write_all(&first_bytes).await.is_err() {
            return true;
        }
        loop {
            match input.message().await {
                Ok(Some(message)) => {
                    if to_instance.write_all(&message.data).await.is_err() {
                        return true;
                    }
                }
                Ok(None) => {
                    // Fails only where the instance has closed already.
                    let _ = to_instance.shutdown().await;
                    return true;
                }
                Err(_) => return false,
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = tokio::select! {
                read = from_instance.read(&mut buffer) => read,
                () = output.closed() => return,
            };
            let message = match read {
                Ok(0) => return,
                Ok(n) => Ok(TunnelData { data: buffer[..n].to_vec(), ..TunnelData::default() }),
                Err(e) => {
                    Err(error(Code::Unavailable, "TunnelFailed", format!("connection lost: {e}")))
                }
            };
            let last = message.is_err();
            if output.send(message).await.is_err() || last {
                return;
            }
        }
    };
    tokio::pin!(down);
    tokio::select! {
        () = &mut down => {}
        more = up => {
            if more {
                down.await;
            }
        }
    }
}
