//! Rules that say which routing table a packet is looked up in.

use super::{MAIN_TABLE, Netlink, routes::LOCAL_TABLE};
use crate::Error;
use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::IpVersion;
use std::{fmt, net::IpAddr};

/// Empty, the kernel asks it last.
const DEFAULT_TABLE: u32 = libc::RT_TABLE_DEFAULT as u32;

/// One rule. Smaller priorities are asked first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) priority: u32,
    pub(crate) table: u32,
    /// The link a packet came in by.
    pub(crate) link: Option<String>,
    /// Where it comes from.
    pub(crate) from: Option<Ipv4Net>,
    /// Routes with at most so long a prefix do not count.
    pub(crate) ignore_up_to: Option<u32>,
}

impl Rule {
    /// Those every namespace has.
    pub(crate) fn defaults() -> [Self; 3] {
        let rule =
            |priority, table| Self { priority, table, link: None, from: None, ignore_up_to: None };
        [rule(0, LOCAL_TABLE), rule(32766, MAIN_TABLE), rule(32767, DEFAULT_TABLE)]
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} for table {}", self.priority, self.table)
    }
}

/// The rule in a message; none if it is of a form we never make.
fn rule(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        priority: 0,
        table: u32::from(message.header.table),
        link: None,
        from: None,
        ignore_up_to: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Iifname(link) => rule.link = Some(link.clone()),
            RuleAttribute::Source(IpAddr::V4(from)) => {
                rule.from = Some(Ipv4Net::new(*from, message.header.src_len).ok()?);
            }
            // "-1" says that there is none.
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::Protocol(_) => {}
            RuleAttribute::SuppressPrefixLen(length) => rule.ignore_up_to = Some(*length),
            _ => return None,
        }
    }
    (message.header.action == RuleAction::ToTable).then_some(rule)
}

impl Netlink {
    /// The IPv4 rules; those of a form we never make as none.
    pub(crate) async fn rules(&self) -> Result<Vec<(Option<Rule>, RuleMessage)>, Error> {
        let messages: Vec<_> = self
            .handle
            .rule()
            .get(IpVersion::V4)
            .execute()
            .try_collect()
            .await
            .map_err(self.error("list rules"))?;
        Ok(messages.into_iter().map(|message| (rule(&message), message)).collect())
    }

    pub(crate) async fn add_rule(&self, rule: &Rule) -> Result<(), Error> {
        let mut request = self
            .handle
            .rule()
            .add()
            .v4()
            .action(RuleAction::ToTable)
            .priority(rule.priority)
            .table_id(rule.table);
        if let Some(link) = &rule.link {
            request = request.input_interface(link);
        }
        if let Some(from) = rule.from {
            request = request.source_prefix(from.network(), from.prefix_len());
        }
        if let Some(length) = rule.ignore_up_to {
            let attributes = &mut request.message_mut().attributes;
            attributes.push(RuleAttribute::SuppressPrefixLen(length));
        }
        request.execute().await.map_err(self.error(&format!("add the {rule}")))
    }

    pub(crate) async fn delete_rule(&self, message: RuleMessage) -> Result<(), Error> {
        self.handle.rule().del(message).execute().await.map_err(self.error("delete a rule"))
    }
}
