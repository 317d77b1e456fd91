//! The stock Debian image with cloud-init, as a person uses it.

use anyhow::{Context as _, Result, ensure};
use lab_tests::{Cloud, Network, leaks, wait};
use serde_json::Value;

const USER_DATA: &str = "#cloud-config
write_files:
  - path: /etc/lab-test
    content: written by cloud-init
    permissions: '0640'
runcmd:
  - [sh, -c, 'echo ran > /var/tmp/runcmd']
users:
  - default
  - name: alice
    shell: /bin/bash
";

#[test]
fn cloud_init_does_what_user_data_says_and_a_person_logs_in() -> Result<()> {
    let cloud = Cloud::of_the_lab()?;
    let network = Network::new(&cloud, "debian")?;
    network.allow(22)?;
    let image = cloud.image("debian-12")?;
    let types = cloud.json([
        "instance-type",
        "list",
        "--available",
        "--min-memory",
        "1",
        "--max-memory",
        "2",
        "--max-cpus",
        "2",
    ])?;
    let kind = types
        .as_array()
        .into_iter()
        .flatten()
        .max_by(|a, b| {
            let memory = |t: &Value| t["memory_size"].as_f64().unwrap_or(0.0);
            memory(a).total_cmp(&memory(b))
        })
        .and_then(|t| t["instance_type_id"].as_str())
        .context("no host can run a type of 1 to 2 GiB")?
        .to_owned();
    let folder = tempfile::tempdir()?;
    let user_data = folder.path().join("user-data");
    std::fs::write(&user_data, USER_DATA)?;
    let path = user_data.display().to_string();
    let mut order = network.run(&image, &kind);
    order.extend(["--host-name", "web-7", "--user-data", &path, "--system-disk", "size=20"]);
    order.extend(["--wait", "--timeout", "300"]);
    let id = cloud.id(&order)?;
    let gone_with_it = leaks::ids_of(&cloud, &id)?;

    let key = network.key().display().to_string();
    let ssh = |command: &str| {
        cloud.run([
            "ssh",
            &id,
            "-i",
            &key,
            "-O",
            "ConnectTimeout=20",
            "-O",
            "BatchMode=yes",
            "-O",
            "LogLevel=ERROR",
            // A guest that no longer answers ends the connection, not the whole run.
            "-O",
            "ServerAliveInterval=15",
            "-O",
            "ServerAliveCountMax=12",
            "--",
            command,
        ])
    };
    wait::until("an SSH login", wait::DEBIAN_BOOT, || ssh("true").map(Some))?;
    let status = ssh("cloud-init status --wait --long || true")?;
    ensure!(
        status.contains("status: done"),
        "{status}\n{}",
        ssh(
            "cat /run/cloud-init/result.json; sudo grep -A 12 -E 'WARN|ERROR|Traceback' /var/log/cloud-init.log | head -n 60"
        )?
    );
    ensure!(status.contains("AliYun"), "{status}");
    let result: Value = serde_json::from_str(&ssh("cat /run/cloud-init/result.json")?)?;
    ensure!(result["v1"]["errors"].as_array().is_some_and(Vec::is_empty), "{result}");

    // What it says of itself, stage by stage.
    let stages = ssh("sudo cloud-init analyze show")?;
    for stage in ["init-local", "init-network", "modules-config", "modules-final"] {
        ensure!(stages.contains(&format!("({stage})")), "stage {stage} is missing: {stages}");
    }
    let dump: Value = serde_json::from_str(&ssh("sudo cloud-init analyze dump")?)?;
    let ends: Vec<_> = dump
        .as_array()
        .into_iter()
        .flatten()
        .filter(|event| event["event_type"] == "finish")
        .collect();
    let failed: Vec<_> = ends.iter().filter(|event| event["result"] != "SUCCESS").collect();
    ensure!(!ends.is_empty() && failed.is_empty(), "{failed:?} of {}", ends.len());

    ensure!(ssh("hostname")? == "web-7");
    ensure!(
        ssh("sudo cat /etc/lab-test; sudo stat -c %a /etc/lab-test")?
            .starts_with("written by cloud-init")
    );
    ensure!(ssh("cat /var/tmp/runcmd; id -un alice")? == "ran\nalice");
    ensure!(ssh("cat /sys/class/dmi/id/product_name")? == "Alibaba Cloud ECS");
    ensure!(
        ssh("curl -s --max-time 20 http://100.100.100.200/latest/meta-data/instance-id")? == id
    );
    let host_keys = ssh("cat /etc/ssh/ssh_host_ed25519_key.pub")?;
    let root = ssh("lsblk -bno SIZE /dev/vda | head -n 1")?;
    ensure!(root.trim().parse::<u64>()? >= 20 << 30, "the disk has {root} bytes");
    let file_system = ssh("df -B1 --output=size / | tail -n 1")?;
    ensure!(file_system.trim().parse::<u64>()? > 15 << 30, "the root has not grown: {file_system}");

    // In order: the file system is clean, and what makes the machine itself is kept.
    ssh("echo kept > /home/debian/kept; sync")?;
    let address = cloud.field(&id, "/vpc_attributes/private_ip_address/0")?;
    cloud.run(["instance", "stop", &id, "--wait", "--timeout", "300"])?;
    ensure!(cloud.console(&id)?.contains("Power down"), "the guest did not stop by itself");
    cloud.run(["instance", "start", &id, "--wait", "--timeout", "300"])?;
    wait::until("an SSH login after the start", wait::DEBIAN_BOOT, || ssh("true").map(Some))?;
    ensure!(ssh("cat /home/debian/kept")? == "kept");
    ensure!(ssh("cat /etc/ssh/ssh_host_ed25519_key.pub")? == host_keys);
    ensure!(cloud.field(&id, "/vpc_attributes/private_ip_address/0")? == address);
    let recovered = ssh("sudo dmesg | grep -c 'recovery complete' || true")?;
    ensure!(recovered == "0", "the file system was not clean");

    network.delete()?;
    leaks::none(&cloud, &gone_with_it)
}
