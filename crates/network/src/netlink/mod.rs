//! Links, addresses, routes, rules and neighbours of one namespace, read and written over
//! rtnetlink.

mod addresses;
mod links;
mod neighbours;
mod routes;
mod rules;
mod traffic;

pub(crate) use links::{Link, Vxlan};
pub(crate) use routes::{Hop, MAIN_TABLE};
pub(crate) use rules::Rule;
pub(crate) use traffic::{Rate, Shown, Way};

use crate::{Error, namespace::Namespace};
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

impl Netlink {
    pub(crate) async fn open(namespace: &Namespace) -> Result<Self, Error> {
        let (connection, handle, _) = namespace
            .run(rtnetlink::new_connection)
            .await?
            .map_err(|e| Error::io(format!("open netlink in {}", namespace.name), e))?;
        let task = tokio::spawn(connection);
        Ok(Self { handle, task, namespace: namespace.name.clone() })
    }

    fn error(&self, what: &str) -> impl Fn(rtnetlink::Error) -> Error + use<> {
        let what = format!("{what} in {}", self.namespace);
        move |e| Error::Netlink {
            what: what.clone(),
            message: match e {
                rtnetlink::Error::NetlinkError(answer) => answer.to_io().to_string(),
                other => other.to_string(),
            },
        }
    }
}
