//! A stock guest whose root is hostile, with a public address, beside a guest of its own VPC and one of
//! another. Nothing of what it sends in the name of others, or to where nothing of it may go, arrives;
//! and the others work while it floods.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, Screen, World, leaks, prober, wait, world};
use std::{
    thread,
    time::{Duration, Instant},
};

const WAIT: [&str; 3] = ["--wait", "--timeout", "300"];
const SHELL: Duration = Duration::from_secs(60);
const GATEWAY: &str = "10.20.1.253";
const METADATA: &str = "100.100.100.200";
/// An address of the VSwitch that nobody has.
const NOBODY: &str = "10.20.1.99";
/// Connections and flows that a namespace of the host may have for this test: few, so that floods are
/// over it in a moment.
const CONNTRACK_MAX: u32 = 1024;
/// Of the table of them, which looks for one to forget in a few: with the usual number those would be
/// empty, as they never are when the usual table is full.
const CONNTRACK_BUCKETS: u32 = 512;
/// Others are served in it while floods go on: some of what begins is forgotten, and begun again.
const DURING_FLOOD: Duration = Duration::from_secs(30);

/// Prints a counter of the guest's kernel, such as `snmp Udp NoPorts`.
const SNMP: &str = r#"snmp() { awk -v k="$1:" -v f="$2" '$1 == k && !n { for (i = 2; i <= NF; i++) if ($i == f) n = i; next } $1 == k { print $n }' /proc/net/snmp; }"#;
/// Counts what of guests' public packets passes a host, behind all of its filters.
const WATCH: &str = r#"nft -f - <<'EOF'
table inet lab-watch {
	chain to_host {
		type filter hook input priority 300
		iifname "ecse*" counter comment "host"
	}
	chain through {
		type filter hook forward priority 300
		iifname "ecse*" ip daddr 198.51.100.0/24 counter comment "world"
		iifname "ecse*" ip daddr != 198.51.100.0/24 counter comment "elsewhere"
	}
}
EOF"#;

struct Guest {
    id: String,
    address: String,
    screen: Screen,
}

/// Orders an instance.
fn ordered(cloud: &Cloud, network: &Network) -> Result<String> {
    cloud.id(network.run(&cloud.image("tiny")?, &cloud.smallest_type()?))
}

fn booted(cloud: &Cloud, id: String, program: &[u8]) -> Result<Guest> {
    wait::for_console(cloud, &id, &format!("tiny: instance-id {id}"), wait::TINY_BOOT)?;
    let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
    let mut screen = prober::bring(cloud, &id, program)?;
    screen.shell(&format!("echo {id} >/www/id"), SHELL)?;
    screen.line(SNMP)?;
    Ok(Guest { id, address, screen })
}

impl Guest {
    fn shell(&mut self, command: &str) -> Result<String> {
        self.screen.shell(command, SHELL)
    }

    /// How many pings of three are answered.
    fn pings(&mut self, options: &str, target: &str) -> Result<u32> {
        let command = format!("ping -c 3 -i 0.3 -W 1 {options} {target} | grep -c 'bytes from'");
        Ok(self.shell(&command)?.parse()?)
    }

    /// What its kernel has heard: echo requests, UDP with and without a port, fragments.
    fn heard(&mut self) -> Result<[u64; 4]> {
        let said = self.shell(
            "snmp Icmp InEchos; snmp Udp InDatagrams; snmp Udp NoPorts; snmp Ip ReasmReqds",
        )?;
        let numbers: Vec<u64> = said.split_whitespace().flat_map(str::parse).collect();
        numbers.try_into().ok().with_context(|| format!("not four numbers: {said}"))
    }

    /// Its own gateway, metadata and the world answer.
    fn is_served(&mut self) -> Result<()> {
        let said = self.shell(&format!(
            "ping -c 1 -W 5 {GATEWAY} >/dev/null && echo gateway; \
             printf 'GET /latest/meta-data/instance-id HTTP/1.0\\r\\n\\r\\n' | nc -w 10 {METADATA} 80 | tail -n 1; \
             echo; nc -w 10 {} {} </dev/null",
            world::ADDRESS,
            world::NAMES_PORT
        ))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        ensure!(words.first() == Some(&"gateway"), "{} cannot ping its gateway: {said}", self.id);
        ensure!(words.get(1) == Some(&self.id.as_str()), "{}: no metadata: {said}", self.id);
        let public = words.get(2).is_some_and(|name| name.starts_with("203.0.113."));
        ensure!(public, "{} does not reach the world: {said}", self.id);
        Ok(())
    }
}

struct Scene<'a> {
    cloud: &'a Cloud,
    host: String,
    /// Of the attacker's VPC, and of the other.
    others: [Guest; 2],
}

impl Scene<'_> {
    /// That the others answer people with their own page, and are served themselves.
    fn is_well(&mut self, when: &str) -> Result<()> {
        (0..self.others.len()).try_for_each(|number| self.other_is_well(number, when))
    }

    fn other_is_well(&mut self, number: usize, when: &str) -> Result<()> {
        let other = &mut self.others[number];
        let output = self.cloud.output(["tunnel", &other.id, "80"], b"GET /id HTTP/1.0\r\n\r\n")?;
        let page = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(page.contains(&other.id), "{when}: {} answers {page:?} {error}", other.id);
        other.is_served().with_context(|| when.to_owned())
    }

    /// Flows that the kernel tracks for the host itself, then for each VPC.
    fn tracked(&self) -> Result<Vec<u32>> {
        let said = self.on_host(
            "cat /proc/sys/net/netfilter/nf_conntrack_count; for n in /run/netns/ecs-*; do \
             nsenter --net=$n cat /proc/sys/net/netfilter/nf_conntrack_count; done",
        )?;
        said.split_whitespace().map(|count| Ok(count.parse()?)).collect()
    }

    fn on_host(&self, command: &str) -> Result<String> {
        self.cloud.on_host(&self.host, command)
    }

    /// Permanent neighbours in all namespaces of VPCs: who the host thinks has which address.
    fn neighbours(&self) -> Result<String> {
        self.on_host(
            "for n in /run/netns/ecs-*; do nsenter --net=$n ip neigh show nud permanent; done | sort",
        )
    }

    /// Packets that passed the host: to itself, to the world, and elsewhere.
    fn passed(&self) -> Result<[u64; 3]> {
        let listed = self.on_host("nft list table inet lab-watch")?;
        let count = |what: &str| {
            let line = listed.lines().find(|line| line.contains(&format!("comment \"{what}\"")))?;
            line.split_whitespace().skip_while(|word| *word != "packets").nth(1)?.parse().ok()
        };
        let counts = ["host", "world", "elsewhere"].map(count);
        let [Some(host), Some(world), Some(elsewhere)] = counts else {
            anyhow::bail!("no counters in {listed}");
        };
        Ok([host, world, elsewhere])
    }
}

/// Allocates a public address for an instance.
fn publish(cloud: &Cloud, id: &str) -> Result<String> {
    let eip = cloud.id(["eip", "allocate", "--bandwidth", "100"])?;
    cloud.run(["eip", "associate", &eip, id].iter().chain(&WAIT))?;
    Ok(eip)
}

/// Another's address, MAC address, ARP, DHCP, and another's metadata.
fn in_the_name_of_others(attacker: &mut Guest, scene: &mut Scene<'_>) -> Result<()> {
    let (own, victim) = (attacker.address.clone(), scene.others[0].address.clone());
    let before = scene.others[0].heard()?;
    ensure!(attacker.pings("", &victim)? == 3, "an honest ping is not answered");
    let known = scene.others[0].heard()?;
    ensure!(known[0] == before[0] + 3, "counted {before:?}, then {known:?}");

    // Addresses that are not its own: nobody's, the victim's, the host's.
    for forged in [NOBODY, &victim, prober::PEOPLE] {
        attacker.shell(&format!("ip addr add {forged}/32 dev eth0"))?;
        let options = format!("-I {forged}");
        ensure!(attacker.pings(&options, GATEWAY)? == 0, "the gateway answers {forged}");
        if forged != victim {
            ensure!(attacker.pings(&options, &victim)? == 0, "{victim} answers {forged}");
            attacker.shell(&format!("{} send {forged}:5000 {victim}:7 16 00", prober::PATH))?;
        }
        attacker.shell(&format!("ip addr del {forged}/32 dev eth0"))?;
    }
    ensure!(scene.others[0].heard()? == known, "what has a forged address arrives");
    scene.is_well("forged addresses")?;

    // Another MAC address: nobody's and the victim's.
    let mac = attacker.shell("cat /sys/class/net/eth0/address")?;
    let of_victim = scene.others[0].shell("cat /sys/class/net/eth0/address")?;
    for forged in ["02:00:00:00:00:77", &of_victim] {
        let now = format!("ip link set eth0 address {forged}; cat /sys/class/net/eth0/address");
        ensure!(attacker.shell(&now)? == forged, "the guest does not take {forged}");
        ensure!(attacker.pings("", &victim)? == 0, "{victim} answers {forged}");
    }
    attacker.shell(&format!("ip link set eth0 address {mac}"))?;
    ensure!(scene.others[0].heard()? == known, "what has a forged MAC address arrives");
    ensure!(attacker.pings("", &victim)? == 3, "not as before with its own MAC address");
    scene.is_well("forged MAC addresses")?;

    // ARP that says that it has the gateway's address, the victim's, that of metadata.
    let sent = "cat /sys/class/net/eth0/statistics/tx_packets";
    let sent_before: u64 = attacker.shell(sent)?.parse()?;
    let look = "ip neigh | grep -v FAILED | awk '{print $1, $5}' | sort";
    let (of_host, of_guest) = (scene.neighbours()?, scene.others[0].shell(look)?);
    for claimed in [GATEWAY, &victim, METADATA] {
        attacker.shell(&format!(
            "ip addr add {claimed}/32 dev eth0; \
             arping -q -U -c 3 -w 4 -I eth0 -s {claimed} {claimed}; \
             arping -q -A -c 3 -w 4 -I eth0 -s {claimed} {claimed}; \
             ip addr del {claimed}/32 dev eth0"
        ))?;
    }
    let sent_after: u64 = attacker.shell(sent)?.parse()?;
    ensure!(sent_after >= sent_before + 18, "only {} sent", sent_after - sent_before);
    ensure!(scene.neighbours()? == of_host, "the host believes it");
    ensure!(scene.others[0].shell(look)? == of_guest, "the victim believes it: {of_guest}");
    scene.is_well("gratuitous ARP")?;

    // A DHCP server, and offers that nobody asked for.
    attacker.shell(
        "printf 'start 10.20.1.66\\nend 10.20.1.70\\ninterface eth0\\nlease_file /tmp/leases\\n\
         pidfile /tmp/udhcpd.pid\\noption router 10.20.1.66\\n' >/tmp/udhcpd.conf; : >/tmp/leases; \
         (udhcpd -f /tmp/udhcpd.conf >/tmp/udhcpd.log 2>&1 &); sleep 1; pidof udhcpd >/dev/null",
    )?;
    let lease = scene.others[0].shell("udhcpc -i eth0 -q -n -t 5 -T 2 -s /bin/true")?;
    let own_lease = format!("lease of {victim} obtained from {GATEWAY}");
    ensure!(lease.contains(&own_lease), "the victim got {lease}");
    let served = attacker.shell("cat /tmp/udhcpd.log; kill $(pidof udhcpd)")?;
    ensure!(!served.contains("sending"), "the rogue server was asked: {served}");
    let known = scene.others[0].heard()?;
    for target in [&victim, "255.255.255.255"] {
        attacker.shell(&format!("{} send {own}:67 {target}:68 300 0201060", prober::PATH))?;
    }
    let now = scene.others[0].heard()?;
    ensure!(now[1..] == known[1..], "an offer arrives: {known:?}, then {now:?}");
    scene.is_well("a rogue DHCP server")?;

    // Metadata is of who asks, whatever it says it is.
    let id = "GET /latest/meta-data/instance-id HTTP/1.0\\r\\n";
    let ask =
        |headers: &str| format!("printf '{id}{headers}\\r\\n' | nc -w 4 {METADATA} 80 | tail -n 1");
    ensure!(attacker.shell(&ask(""))? == attacker.id, "no metadata");
    let claims = format!("X-Forwarded-For: {victim}\\r\\nX-Real-IP: {victim}\\r\\n");
    let said = attacker.shell(&ask(&claims))?;
    ensure!(!said.contains(&scene.others[0].id), "another's metadata: {said}");
    let said = attacker.shell(&format!(
        "way=$(ip route | grep '^{METADATA} '); ip addr add {victim}/32 dev eth0; \
         ip route replace {METADATA}/32 via {GATEWAY} dev eth0 src {victim}; {}; \
         ip route del {METADATA}/32; ip addr del {victim}/32 dev eth0; \
         [ -z \"$way\" ] || ip route add $way",
        ask("")
    ))?;
    ensure!(!said.contains("i-"), "metadata for a forged address: {said}");
    ensure!(attacker.shell(&ask(""))? == attacker.id, "no metadata of its own any more");
    scene.is_well("another's metadata")
}

/// The host, what is around it, and other VPCs by their tunnels.
fn where_nothing_may_go(attacker: &mut Guest, scene: &mut Scene<'_>) -> Result<()> {
    let own = attacker.address.clone();
    attacker.is_served()?;
    let [_, world, _] = scene.passed()?;
    ensure!(world > 0, "the counters see nothing");
    let heard = [scene.others[0].heard()?, scene.others[1].heard()?];
    // VXLAN with an Ethernet frame to the other guest in it, for the first VNIs that there are.
    let frame = "ffffffffffff020000000077080045000020000100004011000064640001";
    for target in ["10.0.2.15", world::UPLINK_ADDRESS, "10.111.0.1", GATEWAY] {
        for vni in 1..=4 {
            let packet = format!("080000000000{vni:02x}00{frame}0a14010100070007000c0000");
            attacker
                .shell(&format!("{} send {own}:4789 {target}:4789 100 {packet}", prober::PATH))?;
        }
    }
    // The agent, the host's SSH, the controller and the network around, link-local addresses.
    for (target, port) in [
        ("10.0.2.15", 22),
        ("10.0.2.15", 7801),
        (world::UPLINK_ADDRESS, 22),
        (world::UPLINK_ADDRESS, 7801),
        ("10.0.2.2", 7800),
        ("10.0.2.2", 22),
        ("10.111.0.1", 7801),
        ("169.254.169.254", 80),
        ("169.254.100.1", 22),
        ("127.0.0.1", 7801),
        (GATEWAY, 22),
        (METADATA, 22),
        (prober::PEOPLE, 22),
    ] {
        let command = format!("nc -w 1 {target} {port} </dev/null && echo connected");
        let said = attacker.shell(&command)?;
        ensure!(!said.contains("connected"), "{target}:{port} answers: {said}");
    }
    for target in ["10.0.2.15", "10.0.2.2", world::UPLINK_ADDRESS, prober::PEOPLE] {
        ensure!(attacker.pings("", target)? == 0, "{target} answers a ping");
    }
    let [host, _, elsewhere] = scene.passed()?;
    ensure!((host, elsewhere) == (0, 0), "{host} packets to the host, {elsewhere} elsewhere");
    for (other, before) in scene.others.iter_mut().zip(heard) {
        let now = other.heard()?;
        ensure!(now == before, "{} heard something: {before:?}, then {now:?}", other.id);
    }
    scene.is_well("packets for the host")
}

/// New flows and packets without end, while the others go on.
fn floods(attacker: &mut Guest, scene: &mut Scene<'_>) -> Result<()> {
    let victim = scene.others[0].address.clone();
    let usual =
        scene.on_host("cd /proc/sys/net/netfilter; cat nf_conntrack_max nf_conntrack_buckets")?;
    let set = |scene: &Scene<'_>, sizes: &str| {
        let [most, buckets] = sizes.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("not two sizes: {sizes}");
        };
        scene.on_host(&format!(
            "cd /proc/sys/net/netfilter; echo {buckets} >nf_conntrack_buckets && \
             echo {most} >nf_conntrack_max"
        ))
    };
    set(scene, &format!("{CONNTRACK_MAX} {CONNTRACK_BUCKETS}"))?;
    let (far, names) = (world::ADDRESS, world::NAMES_PORT);
    let result = [
        format!("flood-new {far} 10"),
        format!("flood-new {victim} 10"),
        format!("flood-tcp {far} 10"),
        format!("flood {far}:9 10"),
        format!("flood {victim}:9 10"),
    ]
    .into_iter()
    .try_for_each(|flood| -> Result<()> {
        attacker.screen.line(&format!("{} {flood}; echo its end", prober::PATH))?;
        thread::sleep(Duration::from_secs(3));
        let when = format!("during {flood}");
        let began = Instant::now();
        wait::until(&when, DURING_FLOOD, || scene.is_well(&when).map(Some))?;
        let served = began.elapsed();
        let flows = scene.tracked()?;
        let count = attacker.screen.wait("flooded ", SHELL)?;
        attacker.screen.wait("its end", SHELL)?;
        println!(
            "{flood}: {count}; others were served in {served:.1?}; flows of the host, then of VPCs, \
             meanwhile: {flows:?}"
        );
        scene.is_well(&format!("after {flood}"))
    })
    .and_then(|()| {
        // Connections that are whole are not forgotten for new ones: a VPC's table can be filled by its
        // own instances, but nobody else's and not the host's.
        let hold = format!("hold {far}:{names} {} 40", CONNTRACK_MAX - 24);
        attacker.screen.line(&format!("ulimit -n 4096; {} {hold}; echo its end", prober::PATH))?;
        let count = attacker.screen.wait("held ", SHELL)?;
        let flows = scene.tracked()?;
        println!("{hold}: {count}; flows of the host, then of VPCs, meanwhile: {flows:?}");
        let full = flows.iter().skip(1).max().copied().unwrap_or_default();
        ensure!(full >= CONNTRACK_MAX * 9 / 10, "no table is full: {flows:?}");
        ensure!(flows.first() < Some(&(CONNTRACK_MAX / 2)), "the host's is filled: {flows:?}");
        scene.other_is_well(1, "while connections are held")?;
        attacker.screen.wait("its end", SHELL)?;
        set(scene, &usual)?;
        scene.is_well("after connections were held")
    });
    set(scene, &usual)?;
    result
}

/// Pieces of packets pass as the whole would.
fn fragments(attacker: &mut Guest, scene: &mut Scene<'_>, network: &Network) -> Result<()> {
    let (own, victim) = (attacker.address.clone(), scene.others[0].address.clone());
    let send = format!("{} send {own}:5000 {victim}:7 4000 00", prober::PATH);
    let before = scene.others[0].heard()?;
    attacker.shell(&send)?;
    let open = scene.others[0].heard()?;
    ensure!(open[2] == before[2] + 3 && open[3] >= before[3] + 9, "{before:?}, then {open:?}");
    // From now on members of the group do not reach each other: UDP does not pass, pings do.
    scene.cloud.run(["security-group", "modify", &network.group, "--inner-access", "drop"])?;
    let shut = wait::until("the group to hold UDP back", wait::TINY_BOOT, || {
        let before = scene.others[0].heard()?;
        attacker.shell(&send)?;
        let after = scene.others[0].heard()?;
        Ok((before == after).then_some(after))
    })?;
    attacker.shell(&send)?;
    ensure!(scene.others[0].heard()? == shut, "fragments arrive");
    ensure!(attacker.pings("-s 4000", &victim)? == 3, "large pings are not answered");
    scene.is_well("fragments")
}

#[test]
fn a_hostile_guest_reaches_nothing_and_nobody_else_notices() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    if cloud.is_native()? {
        println!("skipped: this test would change this machine's default route and filters");
        return Ok(());
    }
    let program = prober::build()?;
    let host = cloud.hosts()?.into_iter().next().context("no host")?;
    let world = World::new(&cloud, &host, &program)?;
    let networks = [Network::new(&cloud, "hostile")?, Network::new(&cloud, "bystander")?];
    for network in &networks {
        network.allow(prober::PORT)?;
        network.allow(80)?;
    }
    let ping = ["--protocol", "icmp", "--port", "-1/-1", "--cidr", "0.0.0.0/0"];
    let order = ["security-group", "authorize", &networks[0].group];
    cloud.run(order.iter().chain(&ping))?;
    let ids = [&networks[0], &networks[0], &networks[1]]
        .map(|network| ordered(&cloud, network))
        .into_iter()
        .collect::<Result<Vec<String>>>()?;
    let guests = ids.iter().map(|id| booted(&cloud, id.clone(), &program));
    let guests = guests.collect::<Result<Vec<Guest>>>()?;
    let eips = ids.iter().map(|id| publish(&cloud, id)).collect::<Result<Vec<String>>>()?;
    let Ok([mut attacker, victim, bystander]) = <[Guest; 3]>::try_from(guests) else {
        anyhow::bail!("not three guests");
    };
    cloud.on_host(&host, WATCH)?;
    let mut scene = Scene { cloud: &cloud, host: host.clone(), others: [victim, bystander] };
    scene.is_well("before")?;
    let result = in_the_name_of_others(&mut attacker, &mut scene)
        .and_then(|()| where_nothing_may_go(&mut attacker, &mut scene))
        .and_then(|()| floods(&mut attacker, &mut scene))
        .and_then(|()| fragments(&mut attacker, &mut scene, &networks[0]));
    let unwatch = cloud.on_host(&host, "nft delete table inet lab-watch");
    result?;
    unwatch?;

    drop((attacker, scene));
    for network in &networks {
        network.delete()?;
    }
    drop(world);
    for eip in eips {
        wait::until("the address to be released", Duration::from_secs(60), || {
            cloud.run(["eip", "release", &eip]).map(Some)
        })?;
    }
    leaks::none(&cloud, &ids)
}
