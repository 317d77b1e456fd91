//! Network interfaces of guests that run.

use crate::fixture::Host;
use api::host::{EniSpec, EniStatus, Power};
use rustix::process::Signal;
use std::process::Command;

fn eni(host: &Host, id: &str) -> Option<EniStatus> {
    host.seen(|seen| seen.status.enis.iter().find(|eni| eni.eni_id == id).cloned())
}

fn attach(host: &Host, instance: &str, id: &str, last: u8) {
    host.change(instance, |i| {
        let primary = i.enis[0].clone();
        i.enis.push(EniSpec {
            eni_id: id.into(),
            mac: format!("00:16:3e:00:01:{last:02x}"),
            private_ip: format!("10.0.0.{last}"),
            primary: false,
            generation: 1,
            queues: 2,
            ..primary
        });
    });
}

fn detach(host: &Host, instance: &str, id: &str) {
    host.change(instance, |i| i.enis.retain(|eni| eni.eni_id != id));
}

async fn until_at(host: &Host, id: &str, instance: &str) -> EniStatus {
    host.until(&format!("{id} at {instance:?}"), |h| {
        eni(h, id).filter(|eni| eni.attached_instance_id == instance && eni.code.is_empty())
    })
    .await
}

async fn until_gone(host: &Host, id: &str) {
    host.until(&format!("{id} to be at nobody"), |h| eni(h, id).is_none().then_some(())).await;
}

/// Names of the taps in the VPC's namespace.
fn taps(host: &Host) -> Vec<String> {
    let list = host.in_vpc(&["ip", "-o", "link", "show", "type", "tun"]);
    let name = |line: &str| line.split(": ").nth(1).map(str::to_owned);
    list.lines().filter_map(name).collect()
}

pub async fn an_interface_comes_and_goes_while_the_guest_runs() {
    let mut host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    let vmm = host.vmm("i-1");
    assert_eq!(until_at(&host, "eni-1", "i-1").await.observed_generation, 0);
    attach(&host, "i-1", "eni-more", 77);
    assert_eq!(until_at(&host, "eni-more", "i-1").await.observed_generation, 1);
    assert_eq!(taps(&host).len(), 2);

    // An agent that starts anew knows who has the ENI, and goes on.
    host.kill_agent();
    detach(&host, "i-1", "eni-more");
    host.start_agent();
    until_gone(&host, "eni-more").await;
    assert_eq!(taps(&host).len(), 1);
    assert_eq!(host.vmm("i-1"), vmm);
    let revision = host.delete("i-1");
    host.until_nothing_is_left(revision).await;
}

pub async fn an_interface_the_guest_keeps_is_told_of_and_passes_nothing() {
    let host = Host::started().await;
    std::fs::write(host.path("cling"), "").unwrap();
    host.run_instance("i-clinging");
    host.until_running("i-clinging", 1).await;
    attach(&host, "i-clinging", "eni-more", 77);
    until_at(&host, "eni-more", "i-clinging").await;
    detach(&host, "i-clinging", "eni-more");
    let told = host
        .until("that the guest does not let go", |h| {
            eni(h, "eni-more").filter(|eni| eni.code == "DetachNotAnswered")
        })
        .await;
    assert_eq!(told.attached_instance_id, "i-clinging");
    assert!(told.message.contains("stop the instance"), "{}", told.message);
    assert_eq!(taps(&host).len(), 1, "its tap is gone already");
    std::fs::remove_file(host.path("cling")).unwrap();
    until_gone(&host, "eni-more").await;
}

pub async fn a_stopped_instance_has_its_interfaces_at_its_next_start() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    host.change("i-1", |i| i.power = Power::Stopped.into());
    host.until_state("i-1", api::host::InstanceState::Stopped).await;
    attach(&host, "i-1", "eni-more", 77);
    until_at(&host, "eni-more", "i-1").await;
    host.change("i-1", |i| {
        i.power = Power::Running.into();
        i.boot_epoch = 2;
    });
    host.until_running("i-1", 2).await;
    until_at(&host, "eni-more", "i-1").await;
    let config = std::fs::read_to_string(host.path("run/vmm/i-1/config.json")).unwrap();
    assert!(config.contains("eni-more"), "{config}");
    // The end of a VMM frees what was taken away meanwhile.
    detach(&host, "i-1", "eni-more");
    host.signal(host.vmm("i-1"), Signal::KILL);
    until_gone(&host, "eni-more").await;
}

pub async fn a_guest_goes_on_with_a_new_tap_when_somebody_removes_its_own() {
    let host = Host::started().await;
    host.run_instance("i-1");
    host.until_running("i-1", 1).await;
    until_at(&host, "eni-1", "i-1").await;
    let vmm = host.vmm("i-1");
    let tap = taps(&host).remove(0);
    let index = |h: &Host| h.in_vpc(&["cat", &format!("/sys/class/net/{tap}/ifindex")]);
    let before = index(&host);
    host.in_vpc(&["ip", "link", "del", &tap]);
    host.until("a new tap that the VMM has open", |h| {
        let carrier = h.in_vpc(&["cat", &format!("/sys/class/net/{tap}/carrier")]);
        (index(h) != before && carrier.trim() == "1").then_some(())
    })
    .await;
    assert_eq!(host.vmm("i-1"), vmm);
}

impl Host {
    /// Runs a command in the namespace of the one VPC; what it says, also of a failure.
    fn in_vpc(&self, command: &[&str]) -> String {
        let mut namespaces = std::fs::read_dir(self.path("netns")).unwrap();
        let namespace = namespaces.next().unwrap().unwrap().path();
        let output = Command::new("nsenter")
            .arg(format!("--net={}", namespace.display()))
            .args(["unshare", "--mount", "sh", "-c"])
            .arg(format!("mount -t sysfs none /sys; {}", command.join(" ")))
            .output()
            .unwrap();
        let (out, error) = (output.stdout, output.stderr);
        String::from_utf8_lossy(&out).into_owned() + &String::from_utf8_lossy(&error)
    }
}
