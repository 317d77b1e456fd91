//! Addresses of the namespace itself.

use super::{Link, Netlink};
use crate::Error;
use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use std::net::{IpAddr, Ipv4Addr};

impl Netlink {
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

    /// The link that has the address.
    pub(crate) async fn link_with(&self, address: Ipv4Addr) -> Result<Option<Link>, Error> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_address_filter(address.into())
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list addresses"))?;
        let Some(index) = messages.first().map(|message| message.header.index) else {
            return Ok(None);
        };
        Ok(self.links().await?.into_iter().find(|link| link.index == index))
    }

    /// The link that has the address, and the network the address is in there.
    pub(crate) async fn network_of(
        &self,
        address: Ipv4Addr,
    ) -> Result<Option<(u32, Ipv4Net)>, Error> {
        let Some(link) = self.link_with(address).await? else { return Ok(None) };
        let networks = self.addresses(link.index).await?.into_iter();
        let network = networks.map(|(network, _)| network).find(|n| n.addr() == address);
        Ok(network.map(|network| (link.index, network)))
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
}
