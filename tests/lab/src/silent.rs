//! What is known of a guest that prints nothing: where its monitor and its processors are.

use crate::Cloud;

/// What `make test` looks for: it then runs the file once more and says so.
const SAID: &str = "this guest has printed nothing at all";

/// Threads of every monitor with what they wait for, and twice what KVM counts of every machine: of
/// one whose processor runs it grows.
const LOOK: &str = "mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
    for pid in $(pgrep -f '[e]cs-vmm run '); do
        tr '\\0' ' ' </proc/$pid/cmdline; echo
        for task in /proc/$pid/task/*; do
            echo \"  $(cat $task/comm) $(cut -d ' ' -f 3,14,15,43 $task/stat) $(tr '\\n' ' ' <$task/stack | cut -c 1-200)\"
        done
    done
    for round in 1 2; do
        for machine in /sys/kernel/debug/kvm/[0-9]*; do
            [ -d $machine ] || continue
            echo \"  $(basename $machine): $(cd $machine; grep . exits halt_exits io_exits mmio_exits irq_injections irq_exits pf_fixed | tr '\\n' ' ')\"
        done
        sleep 2
    done
    ls -l /var/lib/ecs/instances/*/console* 2>/dev/null; cut -d ' ' -f 1 /proc/uptime; dmesg | tail -n 15";

/// All of it, to be read with the failure.
pub(crate) fn describe(cloud: &Cloud, id: &str) -> String {
    let mut said = format!("{SAID}: {id}");
    for host in cloud.hosts().unwrap_or_default() {
        let found = cloud.on_host(&host, LOOK).unwrap_or_else(|error| format!("{error:#}"));
        said.push_str(&format!("\non {host}:\n{found}"));
    }
    let events = cloud.run(["instance", "events", id]).unwrap_or_else(|error| format!("{error:#}"));
    format!("{said}\nevents:\n{events}")
}
