//! Hosts that share a directory over NFS: a disk in it goes from one host's guest to another's, also
//! when its host is gone.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Where every host has it.
const SHARED: &str = "/srv/shared";
/// Of the leases in the pool. A taker waits for 5/4 x (15 s + 3 s).
const LEASE: &str = "lease=15s";
const WAIT: Duration = Duration::from_secs(22);
const SOON: Duration = Duration::from_secs(90);
/// A lost host, a lease that is taken over and a lock that the server gives up, all on slow hosts.
const TAKEN_OVER: Duration = Duration::from_secs(300);

/// The last host serves the directory; it mounts it like any other.
const SERVE: &str = "set -e
mkdir -p /var/lib/ecs/shared /run/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcltrack
modprobe nfsd
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
if [ $(cat /proc/fs/nfsd/threads) = 0 ]; then
    echo 15 >/proc/fs/nfsd/nfsv4leasetime
    echo 15 >/proc/fs/nfsd/nfsv4gracetime
    echo '/var/lib/ecs/shared *(rw,sync,fsid=0,no_subtree_check,no_root_squash,insecure)' >/etc/exports
    exportfs -ra
    rpc.mountd -N 2 -N 3 >/dev/null 2>&1 </dev/null
    rpc.nfsd -N 3 4
fi
cat /proc/fs/nfsd/threads";

fn mount(server: &str) -> String {
    format!(
        "set -e; modprobe nfsv4; mkdir -p {SHARED}
         mountpoint -q {SHARED} || mount -t nfs4 -o vers=4.2,hard,lookupcache=none,actimeo=0 \
         {server}:/ {SHARED}; mountpoint {SHARED}"
    )
}

fn disk(cloud: &Cloud, id: &str) -> Result<Value> {
    let list = cloud.json(["disk", "list", id])?;
    list.pointer("/0").cloned().with_context(|| format!("there is no disk {id}"))
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn pool(cloud: &Cloud) -> Result<Option<Value>> {
    let pools = cloud.json(["pool", "list"])?;
    let pools = pools.as_array().context("no list of pools")?;
    Ok(pools.iter().find(|pool| pool["shared"] == true).cloned())
}

fn address(cloud: &Cloud, host: &str) -> Result<String> {
    let of = "ip -4 -o addr show eth1 | grep -o '10[.][0-9.]*' | head -1";
    Ok(cloud.on_host(host, of)?.trim().to_owned())
}

/// Gives all hosts the shared pool. Its id.
fn share(cloud: &Cloud, hosts: &[String], server: &str) -> Result<String> {
    cloud.on_host(server, SERVE).context("the NFS server")?;
    let server = address(cloud, server)?;
    for host in hosts {
        wait::until("the mount", SOON, || cloud.on_host(host, &mount(&server)).map(Some))?;
        let pools = format!("name=shared,path={SHARED},shared,{LEASE}");
        let set = format!("echo \"ECS_POOLS='{pools}'\" >/var/lib/ecs/agent.env");
        cloud.on_host(host, &set)?;
        cloud.crash(&["agent", "--host", host])?;
    }
    let count = hosts.len();
    let ready = |pool: &Value| {
        let hosts = pool["hosts"]
            .as_array()
            .map_or(0, |all| all.iter().filter(|host| host["status"] == "Ready").count());
        (hosts == count).then(|| text(pool, "pool_id"))
    };
    wait::until("a pool of all hosts", SOON, || Ok(pool(cloud)?.as_ref().and_then(ready)))
}

/// A guest on each host, in the hosts' order.
fn guests(cloud: &Cloud, network: &Network) -> Result<[(String, String); 2]> {
    let (image, kind) = (cloud.image("tiny")?, cloud.smallest_type()?);
    let mut found = Vec::new();
    for _ in 0..2 {
        let mut order = network.run(&image, &kind);
        order.extend(["--wait", "--timeout", "300"]);
        let id = cloud.id(&order)?;
        found.push((cloud.field(&id, "/host_id")?, id));
    }
    for (_, id) in &found {
        wait::for_console(cloud, id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    }
    ensure!(found[0].0 != found[1].0, "both guests are on one host: {found:?}");
    let hosts = cloud.json(["host", "list"])?;
    let name_of = |id: &str| -> Option<String> {
        let host = hosts.as_array()?.iter().find(|host| host["host_id"] == id)?;
        Some(text(host, "hostname"))
    };
    let mut named: Vec<(String, String)> = Vec::new();
    for (host, id) in found {
        named.push((name_of(&host).context("a host without a name")?, id));
    }
    named.sort();
    named.try_into().map_err(|_| anyhow::anyhow!("not two guests"))
}

fn write(cloud: &Cloud, guest: &str, mark: &str) -> Result<()> {
    // Direct, and flushed when it has been said.
    let command = format!(
        "for i in 1 2 3 4; do echo {mark} $i; done >/tmp/l; \
         dd if=/tmp/l of=/dev/vdb bs=1M seek=9000 conv=sync,fsync 2>/dev/null; echo written {mark} $?"
    );
    wait::in_guest(cloud, guest, &command, &format!("written {mark} 0"))
}

fn read(cloud: &Cloud, guest: &str, mark: &str) -> Result<()> {
    let command = "dd if=/dev/vdb bs=1M skip=9000 count=1 2>/dev/null | head -n 4 | tail -n 1 | \
                   sed 's/ /-read-/'";
    wait::in_guest(cloud, guest, command, &format!("{mark}-read-4"))
}

#[test]
fn a_disk_of_a_shared_pool_goes_from_host_to_host_also_from_one_that_is_gone() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let hosts = cloud.hosts()?;
    ensure!(hosts.len() >= 2, "this test needs a lab of two hosts or more: lab up --hosts 2");
    let server = hosts.last().context("no host")?;
    let pool_id = share(&cloud, &hosts, server)?;
    let network = Network::new(&cloud, "shared-pool")?;
    let [(first_host, first), (second_host, second)] = guests(&cloud, &network)?;
    ensure!(first_host != *server, "the first host is to go, and not the server");
    let wait = ["--wait", "--timeout", "180"];

    let create = ["disk", "create", "--pool", "shared", "--size", "20", "--name", "shared-1"];
    let data = cloud.id(create.iter().chain(&wait))?;
    ensure!(text(&disk(&cloud, &data)?, "storage_pool_id") == pool_id);
    let top = format!("{SHARED}/trees/{data}/disks/{data}.qcow2");
    let check = format!("qemu-img check {top}");

    // From guest to guest, with a snapshot.
    cloud.run(["disk", "attach", &data, &first].iter().chain(&wait))?;
    write(&cloud, &first, "alpha")?;
    let snapshot = cloud.id(["snapshot", "create", &data].iter().chain(&wait))?;
    cloud.run(["disk", "detach", &data].iter().chain(&wait))?;
    cloud.run(["disk", "attach", &data, &second].iter().chain(&wait))?;
    read(&cloud, &second, "alpha")?;
    write(&cloud, &second, "beta")?;
    cloud.run(["disk", "detach", &data].iter().chain(&wait))?;
    ensure!(cloud.on_host(&second_host, &check)?.contains("No errors were found"));
    cloud.run(["disk", "attach", &data, &first].iter().chain(&wait))?;
    read(&cloud, &first, "beta")?;
    write(&cloud, &first, "gamma")?;

    // The host is gone under it. The other may have it only when the lease allows.
    cloud.crash(&["host", "--host", &first_host])?;
    let gone = Instant::now();
    cloud.run(["disk", "detach", &data])?;
    wait::until("the disk given to the other", TAKEN_OVER, || {
        cloud.run(["disk", "attach", &data, &second]).map(Some)
    })?;
    let mut held = false;
    wait::until("the disk at the other's guest", TAKEN_OVER, || {
        let now = disk(&cloud, &data)?;
        held |= text(&now, "status_reason").contains("DiskLeaseHeld");
        ensure!(text(&now, "status") == "In_use", "{now}");
        Ok(Some(()))
    })?;
    ensure!(gone.elapsed() > WAIT && held, "taken after {:?}, held: {held}", gone.elapsed());
    eprintln!("the disk of the host that is gone was taken over after {:?}", gone.elapsed());
    read(&cloud, &second, "gamma")?;
    cloud.run(["disk", "detach", &data].iter().chain(&wait))?;
    ensure!(cloud.on_host(&second_host, &check)?.contains("No errors were found"));

    // The first is back and has nothing of it, and its guest runs again.
    wait::until("the first host", TAKEN_OVER, || {
        ensure!(cloud.field(&first, "/status")? == "Running");
        Ok(Some(()))
    })?;
    cloud.on_host(&first_host, &mount(&address(&cloud, server)?))?;
    wait::until("the pool on all hosts", SOON, || {
        let pool = pool(&cloud)?.context("the pool")?;
        let hosts = pool["hosts"].as_array().context("its hosts")?;
        ensure!(hosts.iter().all(|host| host["status"] == "Ready"), "{pool}");
        Ok(Some(()))
    })?;
    cloud.run(["disk", "reset", &data, &snapshot].iter().chain(&wait))?;
    cloud.run(["disk", "attach", &data, &first].iter().chain(&wait))?;
    read(&cloud, &first, "alpha")?;
    cloud.run(["disk", "detach", &data].iter().chain(&wait))?;

    for id in [&first, &second] {
        cloud.run(["instance", "delete", id, "--force"].iter().chain(&wait))?;
    }
    cloud.run(["disk", "delete", &data].iter().chain(&wait))?;
    cloud.run(["snapshot", "delete", &snapshot])?;
    wait::until("nothing left in the pool", SOON, || {
        let left = cloud.on_host(&second_host, &format!("ls {SHARED}/trees"))?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(Some(()))
    })?;
    network.delete()?;
    leaks::none(&cloud, &[first, second, data, snapshot])
}
