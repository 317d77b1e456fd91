//! Links, addresses, routes and neighbours of one namespace, read and written over rtnetlink.

use crate::{Error, namespace::Namespace};
use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType},
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr};
use tokio::task::JoinHandle;

/// A netlink socket inside a namespace. Like any socket it keeps the namespace alive, so it is not
/// kept for longer than one piece of work.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: rtnetlink::Handle,
    task: JoinHandle<()>,
    namespace: String,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an interface is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Ipv4Net,
    /// The interface, or none for a route that refuses.
    pub(crate) via: Option<u32>,
    message: RouteMessage,
}

/// An entry of the neighbour table that does not expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) link: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: Vec<u8>,
    message: NeighbourMessage,
}

impl Netlink {
    pub(crate) async fn open(namespace: &Namespace) -> Result<Self, Error> {
        let (connection, handle, _) = namespace
            .run(rtnetlink::new_connection)
            .await?
            .map_err(|e| Error::io(format!("open netlink in {}", namespace.name), e))?;
        let task = tokio::spawn(connection);
        Ok(Self { handle, task, namespace: namespace.name.clone() })
    }

    fn error(&self, what: &str) -> impl Fn(rtnetlink::Error) -> Error {
        let what = format!("{what} in {}", self.namespace);
        move |e| Error::Netlink {
            what: what.clone(),
            message: match e {
                rtnetlink::Error::NetlinkError(answer) => answer.to_io().to_string(),
                other => other.to_string(),
            },
        }
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list links"))?;
        Ok(messages
            .into_iter()
            .map(|message| {
                let mut link = Link {
                    index: message.header.index,
                    name: String::new(),
                    alias: String::new(),
                    mac: Vec::new(),
                    mtu: 0,
                    up: message.header.flags.contains(LinkFlags::Up),
                };
                for attribute in message.attributes {
                    match attribute {
                        LinkAttribute::IfName(name) => link.name = name,
                        LinkAttribute::IfAlias(alias) => link.alias = alias,
                        LinkAttribute::Address(mac) => link.mac = mac,
                        LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                        _ => {}
                    }
                }
                link
            })
            .collect())
    }

    /// Brings a link up with this alias; with `set`, with this MAC address and MTU too.
    pub(crate) async fn set_link(
        &self,
        index: u32,
        alias: &str,
        set: Option<([u8; 6], u16)>,
    ) -> Result<(), Error> {
        let mut link = LinkUnspec::new_with_index(index).alias(alias);
        if let Some((mac, mtu)) = set {
            link = link.address(mac.to_vec()).mtu(u32::from(mtu));
        }
        self.handle
            .link()
            .change(link.up().build())
            .execute()
            .await
            .map_err(self.error("set up a link"))
    }

    pub(crate) async fn delete_link(&self, link: &Link) -> Result<(), Error> {
        self.handle
            .link()
            .del(link.index)
            .execute()
            .await
            .map_err(self.error(&format!("delete {}", link.name)))
    }

    /// IPv4 addresses of a link with their prefix lengths.
    pub(crate) async fn addresses(
        &self,
        link: u32,
    ) -> Result<Vec<(Ipv4Net, AddressMessage)>, Error> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(link)
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list addresses"))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| {
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                })?;
                Some((Ipv4Net::new(local, message.header.prefix_len).ok()?, message))
            })
            .collect())
    }

    pub(crate) async fn add_address(&self, link: u32, address: Ipv4Addr) -> Result<(), Error> {
        self.handle
            .address()
            .add(link, address.into(), 32)
            .execute()
            .await
            .map_err(self.error(&format!("add address {address}")))
    }

    pub(crate) async fn delete_address(&self, message: AddressMessage) -> Result<(), Error> {
        self.handle.address().del(message).execute().await.map_err(self.error("delete an address"))
    }

    /// The IPv4 routes of the main table.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, Error> {
        let messages: Vec<_> = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list routes"))?;
        Ok(messages
            .into_iter()
            .filter(|m: &RouteMessage| m.header.table == RouteHeader::RT_TABLE_MAIN)
            .filter_map(|message| {
                let mut to = Ipv4Addr::UNSPECIFIED;
                let mut via = None;
                for attribute in &message.attributes {
                    match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
                        RouteAttribute::Oif(link) => via = Some(*link),
                        _ => {}
                    }
                }
                if message.header.kind != RouteType::Unicast {
                    via = None;
                }
                let to = Ipv4Net::new(to, message.header.destination_prefix_length).ok()?;
                Some(Route { to, via, message })
            })
            .collect())
    }

    pub(crate) async fn add_route(&self, to: Ipv4Net, via: Option<u32>) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len());
        let route = match via {
            Some(link) => route.scope(RouteScope::Link).output_interface(link),
            None => route.kind(RouteType::Unreachable),
        };
        self.handle
            .route()
            .add(route.build())
            .execute()
            .await
            .map_err(self.error(&format!("add route to {to}")))
    }

    pub(crate) async fn delete_route(&self, route: Route) -> Result<(), Error> {
        self.handle
            .route()
            .del(route.message)
            .execute()
            .await
            .map_err(self.error(&format!("delete route to {}", route.to)))
    }

    /// The permanent IPv4 neighbour entries.
    pub(crate) async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let messages: Vec<_> = self
            .handle
            .neighbours()
            .get()
            .set_address_family(AddressFamily::Inet)
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list neighbours"))?;
        Ok(messages
            .into_iter()
            .filter(|m: &NeighbourMessage| m.header.state == NeighbourState::Permanent)
            .filter_map(|message| {
                let mut address = None;
                let mut mac = Vec::new();
                for attribute in &message.attributes {
                    match attribute {
                        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                            address = Some(*a);
                        }
                        NeighbourAttribute::LinkLayerAddress(m) => mac.clone_from(m),
                        _ => {}
                    }
                }
                Some(Neighbour { link: message.header.ifindex, address: address?, mac, message })
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
}
