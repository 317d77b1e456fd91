//! Kernel parameters of a namespace.

use crate::{Error, namespace::Namespace};
use std::{fs, io, path::Path};

/// Of every VPC namespace. `ip_forward` comes first: changing it resets others.
const OF_NAMESPACE: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    // The filter knows exactly who may send from which address; by routes alone, what comes from
    // another host or leaves by a custom route would look forged.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
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

/// Sets the parameters of a namespace; conntrack must be in use there already. Tells which were
/// different.
pub(crate) async fn set_namespace(namespace: &Namespace) -> Result<Vec<String>, Error> {
    namespace
        .run(|| {
            let mut changed = Vec::new();
            for (key, value) in OF_NAMESPACE {
                set(key, value, &mut changed)?;
            }
            if Path::new("/proc/sys/net/ipv6").exists() {
                for (key, value) in IPV6 {
                    set(key, value, &mut changed)?;
                }
            }
            Ok(changed)
        })
        .await?
}

/// Sets the parameters of a tap in the calling thread's namespace. Tells which were different.
pub(crate) fn set_tap(name: &str) -> Result<Vec<String>, Error> {
    let mut changed = set_routed(name)?;
    set(&format!("net/ipv4/conf/{name}/proxy_arp"), "1", &mut changed)?;
    // The kernel would wait up to 0.8 s before it answers for another address.
    set(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0", &mut changed)?;
    Ok(changed)
}

/// Sets the parameters of an interface that forwards, in the calling thread's namespace. Tells which
/// were different.
pub(crate) fn set_routed(name: &str) -> Result<Vec<String>, Error> {
    let mut changed = Vec::new();
    set(&format!("net/ipv4/conf/{name}/forwarding"), "1", &mut changed)?;
    set(&format!("net/ipv4/conf/{name}/rp_filter"), "0", &mut changed)?;
    Ok(changed)
}

/// Sets the parameters of the host's end of an edge. Tells which were different.
pub(crate) fn set_host_edge(name: &str) -> Result<Vec<String>, Error> {
    let mut changed = Vec::new();
    set(&format!("net/ipv4/conf/{name}/forwarding"), "1", &mut changed)?;
    set(&format!("net/ipv4/conf/{name}/rp_filter"), "1", &mut changed)?;
    set(&format!("net/ipv4/conf/{name}/send_redirects"), "0", &mut changed)?;
    let ipv6 = format!("net/ipv6/conf/{name}/disable_ipv6");
    if Path::new("/proc/sys").join(&ipv6).exists() {
        set(&ipv6, "1", &mut changed)?;
    }
    Ok(changed)
}

/// Lets the uplink forward, and answer at once for addresses that are not the host's own.
pub(crate) fn set_uplink(name: &str) -> Result<Vec<String>, Error> {
    let mut changed = Vec::new();
    set(&format!("net/ipv4/conf/{name}/forwarding"), "1", &mut changed)?;
    set(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0", &mut changed)?;
    Ok(changed)
}

/// Whether the calling thread's namespace forwards between all its interfaces.
pub(crate) fn host_is_router() -> Result<bool, Error> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_forward";
    let text = fs::read_to_string(PATH).map_err(|e| Error::io(format!("read {PATH}"), e))?;
    Ok(text.trim() != "0")
}

fn set(key: &str, value: &str, changed: &mut Vec<String>) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(key);
    let fail = |e: io::Error| Error::io(format!("set {key} to {value}"), e);
    if fs::read_to_string(&path).map_err(fail)?.trim() != value {
        fs::write(&path, value).map_err(fail)?;
        changed.push(key.to_owned());
    }
    Ok(())
}
