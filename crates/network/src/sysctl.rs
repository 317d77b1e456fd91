//! Kernel parameters of a namespace.

use crate::{Error, namespace::Namespace};
use std::{fs, io, path::Path};

/// Of every VPC namespace. `ip_forward` comes first: changing it resets others.
const OF_NAMESPACE: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    // ECS forgets an idle session after 910 seconds.
    ("net/netfilter/nf_conntrack_tcp_timeout_established", "910"),
];

/// Of every VPC namespace whose kernel has IPv6.
const IPV6: &[(&str, &str)] =
    &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];

/// Sets the parameters of a namespace; conntrack must be in use there already. Tells how many were
/// different.
pub(crate) async fn set_namespace(namespace: &Namespace) -> Result<usize, Error> {
    namespace
        .run(|| {
            let mut changes = 0;
            for (key, value) in OF_NAMESPACE {
                changes += set(key, value)?;
            }
            if Path::new("/proc/sys/net/ipv6").exists() {
                for (key, value) in IPV6 {
                    changes += set(key, value)?;
                }
            }
            Ok(changes)
        })
        .await?
}

/// Sets the parameters of a tap in the calling thread's namespace.
pub(crate) fn set_tap(name: &str) -> Result<usize, Error> {
    let mut changes = set(&format!("net/ipv4/conf/{name}/proxy_arp"), "1")?;
    // The kernel would wait up to 0.8 s before it answers for another address.
    changes += set(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")?;
    changes += set(&format!("net/ipv4/conf/{name}/forwarding"), "1")?;
    Ok(changes)
}

fn set(key: &str, value: &str) -> Result<usize, Error> {
    let path = Path::new("/proc/sys").join(key);
    let fail = |e: io::Error| Error::io(format!("set {key} to {value}"), e);
    if fs::read_to_string(&path).map_err(fail)?.trim() == value {
        return Ok(0);
    }
    fs::write(&path, value).map_err(fail)?;
    Ok(1)
}
