//! A TCP connection to an instance, made inside its VPC and judged by its security groups.

use super::error;
use crate::host::Host;
use api::host::{EniSpec, InstanceSpec, TunnelData};
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
    let (eni, address) = place(instance, &first.private_ip).ok_or_else(|| {
        let message = format!("instance {id} has no address {:?}", first.private_ip);
        error(Code::NotFound, "InvalidPrivateIpAddress.NotFound", message)
    })?;
    let invalid = |what: &str| {
        error(Code::InvalidArgument, "InvalidParameter", format!("instance {id}: {what}"))
    };
    let port = u16::try_from(first.port).ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| invalid("the port must be 1 to 65535"))?;
    let address: Ipv4Addr =
        address.parse().map_err(|_| invalid("its address is not an IPv4 address"))?;
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

/// The ENI with an address of the instance; without one, the primary ENI and its address.
fn place<'a>(instance: &'a InstanceSpec, address: &'a str) -> Option<(&'a EniSpec, &'a str)> {
    if address.is_empty() {
        let eni = instance.enis.iter().find(|eni| eni.primary).or(instance.enis.first())?;
        return Some((eni, &eni.private_ip));
    }
    let has = |eni: &&EniSpec| {
        eni.private_ip == address || eni.secondary_private_ips.iter().any(|one| one == address)
    };
    instance.enis.iter().find(has).map(|eni| (eni, address))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_an_instance_is_reached_and_no_other() {
        let eni = |id: &str, primary, private_ip: &str, more: &[&str]| EniSpec {
            eni_id: id.to_owned(),
            primary,
            private_ip: private_ip.to_owned(),
            secondary_private_ips: more.iter().map(|&one| one.to_owned()).collect(),
            ..EniSpec::default()
        };
        let enis = vec![
            eni("eni-2", false, "10.0.0.2", &["10.0.0.3", "10.0.0.4"]),
            eni("eni-1", true, "10.0.0.1", &[]),
        ];
        let instance = InstanceSpec { enis, ..InstanceSpec::default() };
        let found = |address| place(&instance, address).map(|(eni, ip)| (eni.eni_id.as_str(), ip));
        assert_eq!(found(""), Some(("eni-1", "10.0.0.1")));
        assert_eq!(found("10.0.0.2"), Some(("eni-2", "10.0.0.2")));
        assert_eq!(found("10.0.0.4"), Some(("eni-2", "10.0.0.4")));
        assert_eq!(found("10.0.0.5"), None);
    }
}
