//! Routes of all tables but the kernel's own.

use super::Netlink;
use crate::Error;
use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::RouteMessageBuilder;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The table that is asked when no rule says otherwise.
pub(crate) const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;
/// The kernel's own.
pub(super) const LOCAL_TABLE: u32 = libc::RT_TABLE_LOCAL as u32;

/// Of IPv6 routes that name none.
const IPV6_METRIC: u32 = 1024;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hop {
    /// Out of a link: to the address itself, or by way of another one, on the link by decree.
    Link { link: u32, via: Option<IpAddr> },
    /// Nowhere; the sender is told.
    Unreachable,
    /// Nowhere, silently.
    Blackhole,
    /// The next rule decides.
    Throw,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) to: IpNet,
    /// None for a kind of route we never make.
    pub(crate) hop: Option<Hop>,
    message: RouteMessage,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route to {}", self.to)?;
        if self.table == MAIN_TABLE { Ok(()) } else { write!(f, " of table {}", self.table) }
    }
}

fn route(message: RouteMessage) -> Option<Route> {
    let v6 = message.header.address_family == AddressFamily::Inet6;
    let mut to = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut table = u32::from(message.header.table);
    let (mut link, mut via, mut plain) = (None, None, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(address) => via = Some(ip(address)?),
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(metric) => {
                plain &= *metric == if v6 { IPV6_METRIC } else { 0 };
            }
            // Of IPv6, the kernel always shows some.
            RouteAttribute::Metrics(metrics) => plain &= v6 || metrics.is_empty(),
            RouteAttribute::Source(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::Via(_) => plain = false,
            _ => {}
        }
    }
    let hop = match (message.header.kind, link) {
        _ if !plain => None,
        (RouteType::Unicast, Some(link)) => Some(Hop::Link { link, via }),
        (RouteType::Unreachable, _) => Some(Hop::Unreachable),
        (RouteType::BlackHole, _) => Some(Hop::Blackhole),
        (RouteType::Throw, _) => Some(Hop::Throw),
        _ => None,
    };
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { table, to, hop, message })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl Route {
    /// The link it leads out of, whatever else is strange about it.
    pub(crate) fn link(&self) -> Option<u32> {
        self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => Some(*link),
            _ => None,
        })
    }
}

impl Netlink {
    /// The IPv4 routes of all tables but the kernel's own.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, Error> {
        self.list_routes(RouteMessageBuilder::<Ipv4Addr>::new().build()).await
    }

    /// The IPv6 routes, but for those that the kernel makes with an interface.
    pub(crate) async fn routes6(&self) -> Result<Vec<Route>, Error> {
        let mut routes = self.list_routes(RouteMessageBuilder::<Ipv6Addr>::new().build()).await?;
        routes.retain(|route| route.message.header.protocol != RouteProtocol::Kernel);
        Ok(routes)
    }

    async fn list_routes(&self, of: RouteMessage) -> Result<Vec<Route>, Error> {
        let messages: Vec<_> = self
            .handle
            .route()
            .get(of)
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list routes"))?;
        let routes = messages.into_iter().filter_map(route);
        Ok(routes.filter(|route| route.table != LOCAL_TABLE).collect())
    }

    /// The link the default route leads out of.
    pub(crate) async fn default_link(&self) -> Result<Option<u32>, Error> {
        let metric = |route: &Route| {
            let attributes = &route.message.attributes;
            attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Priority(metric) => Some(*metric),
                _ => None,
            })
        };
        let mut routes = self.routes().await?;
        routes.retain(|route| {
            route.to.prefix_len() == 0 && route.table == MAIN_TABLE && route.link().is_some()
        });
        routes.sort_by_key(|route| metric(route).unwrap_or(0));
        Ok(routes.first().and_then(Route::link))
    }

    /// Makes a route, in the place of one to the same destination.
    pub(crate) async fn set_route(&self, table: u32, to: IpNet, hop: Hop) -> Result<(), Error> {
        let what = format!("set the route to {to} of table {table}");
        let error = self.error(&what);
        let invalid = |_| Error::Netlink { what: what.clone(), message: "of two families".into() };
        let route = RouteMessageBuilder::<IpAddr>::new()
            .table_id(table)
            .destination_prefix(to.network(), to.prefix_len())
            .map_err(invalid)?;
        let route = match hop {
            Hop::Link { link, via: None } => {
                let scope =
                    if to.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
                route.scope(scope).output_interface(link)
            }
            Hop::Link { link, via: Some(via) } => {
                route.output_interface(link).gateway(via).map_err(invalid)?.onlink()
            }
            Hop::Unreachable => route.kind(RouteType::Unreachable),
            Hop::Blackhole => route.kind(RouteType::BlackHole),
            Hop::Throw => route.kind(RouteType::Throw),
        };
        self.handle.route().add(route.build()).replace().execute().await.map_err(error)
    }

    pub(crate) async fn delete_route(&self, route: Route) -> Result<(), Error> {
        let error = self.error(&format!("delete the {route}"));
        self.handle.route().del(route.message).execute().await.map_err(error)
    }
}
