//! Interfaces.

use super::Netlink;
use crate::{Error, namespace::Namespace};
use futures::TryStreamExt as _;
use netlink_packet_route::link::{
    InfoData, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkIfb, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};
use std::{net::Ipv4Addr, os::fd::AsRawFd as _};

/// What an interface is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// Of a VXLAN interface.
    pub(crate) vxlan: Option<Vxlan>,
}

/// What cannot be changed of a VXLAN interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vxlan {
    pub(crate) vni: u32,
    pub(crate) local: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) learning: bool,
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: String::new(),
        mac: Vec::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        vxlan: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => link.vxlan = infos.iter().find_map(vxlan),
            _ => {}
        }
    }
    link
}

fn vxlan(info: &LinkInfo) -> Option<Vxlan> {
    let LinkInfo::Data(InfoData::Vxlan(infos)) = info else { return None };
    let mut vxlan = Vxlan { vni: 0, local: Ipv4Addr::UNSPECIFIED, port: 0, learning: true };
    for info in infos {
        match info {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Local(local) => vxlan.local = *local,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Learning(learning) => vxlan.learning = *learning,
            _ => {}
        }
    }
    Some(vxlan)
}

impl Netlink {
    pub(crate) async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list links"))?;
        Ok(messages.into_iter().map(link).collect())
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

    /// Makes a pair of interfaces, one here and one in `namespace`.
    pub(crate) async fn add_veth(
        &self,
        name: &str,
        peer: &str,
        namespace: &Namespace,
    ) -> Result<(), Error> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .setns_by_fd(namespace.file().as_raw_fd())
            .build();
        let link = LinkVeth::new(name, "").set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        self.handle
            .link()
            .add(link.build())
            .execute()
            .await
            .map_err(self.error(&format!("make interface {name}")))
    }

    /// Makes an interface that gives packets back to where they came from.
    pub(crate) async fn add_ifb(&self, name: &str) -> Result<(), Error> {
        self.handle
            .link()
            .add(LinkIfb::new(name).build())
            .execute()
            .await
            .map_err(self.error(&format!("make interface {name} (kernel module ifb)")))
    }

    /// Makes a VXLAN interface in `namespace`, in one step; its packets go and come in this one.
    pub(crate) async fn add_vxlan(
        &self,
        name: &str,
        vxlan: Vxlan,
        namespace: &Namespace,
    ) -> Result<(), Error> {
        let link = LinkVxlan::new(name, vxlan.vni)
            .local(vxlan.local)
            .port(vxlan.port)
            .append_info_data(InfoVxlan::Learning(vxlan.learning))
            .setns_by_fd(namespace.file().as_raw_fd());
        self.handle
            .link()
            .add(link.build())
            .execute()
            .await
            .map_err(self.error(&format!("make the VXLAN interface of VNI {}", vxlan.vni)))
    }
}
