//! Routes of all tables but the kernel's own.

use super::Netlink;
use crate::Error;
use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use std::{fmt, net::Ipv4Addr};

/// The table that is asked when no rule says otherwise.
pub(crate) const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;
/// The kernel's own.
pub(super) const LOCAL_TABLE: u32 = libc::RT_TABLE_LOCAL as u32;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hop {
    /// Out of a link: to the address itself, or by way of another one, on the link by decree.
    Link { link: u32, via: Option<Ipv4Addr> },
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
    pub(crate) to: Ipv4Net,
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
    let mut to = Ipv4Addr::UNSPECIFIED;
    let mut table = u32::from(message.header.table);
    let (mut link, mut via, mut plain) = (None, None, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(metric) => plain &= *metric == 0,
            RouteAttribute::Source(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Metrics(_)
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
    let to = Ipv4Net::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { table, to, hop, message })
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
        let messages: Vec<_> = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
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
    pub(crate) async fn set_route(&self, table: u32, to: Ipv4Net, hop: Hop) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(table)
            .destination_prefix(to.network(), to.prefix_len());
        let route = match hop {
            Hop::Link { link, via: None } => route.scope(RouteScope::Link).output_interface(link),
            Hop::Link { link, via: Some(via) } => {
                route.output_interface(link).gateway(via).onlink()
            }
            Hop::Unreachable => route.kind(RouteType::Unreachable),
            Hop::Blackhole => route.kind(RouteType::BlackHole),
            Hop::Throw => route.kind(RouteType::Throw),
        };
        self.handle
            .route()
            .add(route.build())
            .replace()
            .execute()
            .await
            .map_err(self.error(&format!("set the route to {to} of table {table}")))
    }

    pub(crate) async fn delete_route(&self, route: Route) -> Result<(), Error> {
        let error = self.error(&format!("delete the {route}"));
        self.handle.route().del(route.message).execute().await.map_err(error)
    }
}
