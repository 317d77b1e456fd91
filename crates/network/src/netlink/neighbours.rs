//! Permanent neighbour entries, and where a VXLAN interface sends which MAC address.

use super::Netlink;
use crate::Error;
use futures::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::RouteProtocol,
};
use std::net::Ipv4Addr;

/// An entry of the neighbour table that does not expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) link: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: Vec<u8>,
    message: NeighbourMessage,
}

/// An entry of a VXLAN interface's forwarding table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forwarding {
    pub(crate) mac: Vec<u8>,
    /// The host, by its underlay address.
    pub(crate) to: Option<Ipv4Addr>,
    message: NeighbourMessage,
}

impl Netlink {
    async fn entries(&self, family: AddressFamily) -> Result<Vec<NeighbourMessage>, Error> {
        self.handle
            .neighbours()
            .get()
            .set_address_family(family)
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list neighbours"))
    }

    /// The permanent IPv4 neighbour entries.
    pub(crate) async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let messages = self.entries(AddressFamily::Inet).await?.into_iter();
        Ok(messages
            .filter(|m| m.header.state == NeighbourState::Permanent)
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|a| match a {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(*a),
                    _ => None,
                })?;
                let mac = mac_of(&message);
                Some(Neighbour { link: message.header.ifindex, address, mac, message })
            })
            .collect())
    }

    pub(crate) async fn set_neighbour(
        &self,
        link: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), Error> {
        self.handle
            .neighbours()
            .add(link, address.into())
            .link_layer_address(&mac)
            .replace()
            .execute()
            .await
            .map_err(self.error(&format!("set neighbour {address}")))
    }

    pub(crate) async fn delete_neighbour(&self, neighbour: Neighbour) -> Result<(), Error> {
        self.handle
            .neighbours()
            .del(neighbour.message)
            .execute()
            .await
            .map_err(self.error(&format!("delete neighbour {}", neighbour.address)))
    }

    /// The IPv4 addresses the host answers for that bear this mark, and on which links.
    pub(crate) async fn proxies(
        &self,
        mark: u8,
    ) -> Result<Vec<(u32, Ipv4Addr, NeighbourMessage)>, Error> {
        let messages: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .set_address_family(AddressFamily::Inet)
            .proxies()
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list the addresses answered for"))?;
        let mark = NeighbourAttribute::Protocol(RouteProtocol::from(mark));
        Ok(messages
            .into_iter()
            .filter(|m| m.header.flags.contains(NeighbourFlags::Proxy))
            .filter(|m| m.attributes.contains(&mark))
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|a| match a {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(*a),
                    _ => None,
                })?;
                Some((message.header.ifindex, address, message))
            })
            .collect())
    }

    pub(crate) async fn add_proxy(
        &self,
        link: u32,
        address: Ipv4Addr,
        mark: u8,
    ) -> Result<(), Error> {
        let mut request = self
            .handle
            .neighbours()
            .add(link, address.into())
            .flags(NeighbourFlags::Proxy)
            .replace();
        let attributes = &mut request.message_mut().attributes;
        attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(mark)));
        request.execute().await.map_err(self.error(&format!("answer for {address}")))
    }

    pub(crate) async fn delete_proxy(&self, mut message: NeighbourMessage) -> Result<(), Error> {
        let error = self.error("stop answering for an address");
        message.header.flags |= NeighbourFlags::Proxy;
        self.handle.neighbours().del(message).execute().await.map_err(error)
    }

    /// The forwarding table of a VXLAN interface.
    pub(crate) async fn forwarding(&self, link: u32) -> Result<Vec<Forwarding>, Error> {
        let messages = self.entries(AddressFamily::Bridge).await?.into_iter();
        Ok(messages
            .filter(|m| m.header.ifindex == link)
            .map(|message| {
                let to = message.attributes.iter().find_map(|a| match a {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(*a),
                    NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                        <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
                    }
                    _ => None,
                });
                Forwarding { mac: mac_of(&message), to, message }
            })
            .collect())
    }

    pub(crate) async fn set_forwarding(
        &self,
        link: u32,
        mac: [u8; 6],
        to: Ipv4Addr,
    ) -> Result<(), Error> {
        self.handle
            .neighbours()
            .add_bridge(link, &mac)
            .destination(to.into())
            .flags(NeighbourFlags::Own)
            .replace()
            .execute()
            .await
            .map_err(self.error(&format!("set where host {to} is")))
    }

    pub(crate) async fn delete_forwarding(&self, mut entry: Forwarding) -> Result<(), Error> {
        let error = self.error("delete an entry of a VXLAN interface");
        entry.message.header.flags |= NeighbourFlags::Own;
        self.handle.neighbours().del(entry.message).execute().await.map_err(error)
    }
}

fn mac_of(message: &NeighbourMessage) -> Vec<u8> {
    let macs = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
        _ => None,
    });
    macs.unwrap_or_default()
}
