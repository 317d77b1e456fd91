#!/usr/bin/env bash
# A NAT gateway on two hosts that are network namespaces: real controller and agents, no virtual
# machines. Its host's agent goes; the other host takes it over and answers for its address; the first
# one comes back and lets go of it; in the end nothing is left.
# Usage: tests/network/nat_failover.sh [PROGRAMS]     default: target/release
set -euo pipefail
cd "$(dirname "$0")/../.."
programs=$PWD/${1:-target/release}
name=ecs-nat-$$
work=$(mktemp -d)
pids=()

if ((EUID != 0)); then
    echo "skipped: it makes network namespaces, which only root may"
    exit 0
fi

stop() {
    local pid
    set +e
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    umount "$work"/h*/netns/* 2>/dev/null
    find /sys/fs/cgroup -maxdepth 2 -name "$name-*" -exec rmdir {} + 2>/dev/null
    for namespace in world h1 h2; do
        ip netns delete "$name-$namespace" 2>/dev/null
    done
    rm -rf "$work"
}

fail() {
    echo "error: $*" >&2
    for log in "$work"/*.log; do
        echo "--- ${log##*/}" >&2
        tail -n 20 "$log" >&2
    done
    exit 1
}

ecsctl() {
    ip netns exec "$name-world" env ECS_ENDPOINT=http://192.0.2.100:7800 "$programs/ecsctl" "$@"
}

# field COMMAND... FIELD: a text field of the first of a list.
field() {
    ecsctl "${@:1:$#-1}" -o json | sed -n "s/^ *\"${*: -1}\": \"\(.*\)\",\?$/\1/p" | head -n 1
}

# until_so SECONDS WHAT COMMAND...: the command succeeds within the time.
until_so() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "never: $what"
        sleep 0.3
    done
    echo "$what"
}

agent() {
    local folder=$work/h$1
    mkdir -p "$folder"
    # Not by `ip netns exec`, which would hide the cgroups.
    nsenter --net="/run/netns/$name-h$1" "$programs/ecs-agent" \
        --controller http://192.0.2.100:7800 --join-token-file "$work/controller/join-token" \
        --access-listen "192.0.2.$1:7801" --access-endpoint "http://192.0.2.$1:7801" \
        --state-dir "$folder/state" --run-dir "$folder/run" --netns-dir "$folder/netns" \
        --cgroup "$name-h$1" --underlay-ip "192.0.2.$1" --uplink "up$1" \
        --vcpus 1 --memory-mib 64 >>"$work/agent-$1.log" 2>&1 &
    pids+=($!)
    agents[$1]=$!
}

# The Ethernet address that answers for the public address.
answering() {
    ip -n "$name-world" neigh flush dev br0 2>/dev/null
    ip netns exec "$name-world" timeout 0.5 bash -c "</dev/tcp/$address/80" 2>/dev/null || true
    ip -n "$name-world" neigh show "$address" | sed -n 's/.*lladdr \([0-9a-f:]*\).*/\1/p'
}

called() { ecsctl host list >/dev/null 2>&1; }
answers() { [[ $(answering) == "$(cat "$work/mac-$1")" ]]; }
ready() { (($(ecsctl host list -o json | grep -c '"status": "Ready"') == $1)); }
available_elsewhere() {
    [[ $(field nat-gateway list "$gateway" status) == Available && $(field nat-gateway list "$gateway" host_id) != "$first" ]]
}
has_nothing() { [[ -z $(ls "$work/h$1/netns" 2>/dev/null) ]]; }

trap stop EXIT
declare -A agents
for namespace in world h1 h2; do
    ip netns add "$name-$namespace"
    ip -n "$name-$namespace" link set lo up
done
ip -n "$name-world" link add br0 type bridge
ip -n "$name-world" address add 192.0.2.100/24 dev br0
ip -n "$name-world" link set br0 up
# The network around the hosts has to route public addresses to them: here, to their link.
ip -n "$name-world" route add 203.0.113.0/24 dev br0
for host in 1 2; do
    ip -n "$name-h$host" link add "up$host" type veth peer name "p$host" netns "$name-world"
    ip -n "$name-world" link set "p$host" master br0 up
    ip -n "$name-h$host" address add "192.0.2.$host/24" dev "up$host"
    ip -n "$name-h$host" link set "up$host" up
    ip -n "$name-h$host" route add default via 192.0.2.100
    ip -n "$name-h$host" -o link show "up$host" | sed 's/.*link.ether \([0-9a-f:]*\).*/\1/' >"$work/mac-$host"
done
mkdir "$work/controller"
ip netns exec "$name-world" "$programs/ecs-controller" --listen 192.0.2.100:7800 \
    --data-dir "$work/controller" --eip-range 203.0.113.0/28 --lease-seconds 2 \
    >"$work/controller.log" 2>&1 &
pids+=($!)
until_so 20 "the controller answers" called
agent 1
until_so 30 "the first host is ready" ready 1
vpc=$(ecsctl vpc create --name failover -o name)
vswitch=$(ecsctl vswitch create --vpc "$vpc" --cidr 172.16.1.0/24 -o name)
gateway=$(ecsctl nat-gateway create --vpc "$vpc" --vswitch "$vswitch" --wait -o name) || fail "no gateway"
first=$(field nat-gateway list "$gateway" host_id)
eip=$(ecsctl eip allocate -o name)
ecsctl eip associate "$eip" "$gateway" --wait || fail "the EIP is not associated"
address=$(field eip list "$eip" ip_address)
ecsctl nat-gateway add-snat "$gateway" --vswitch "$vswitch" --address "$address"
ecsctl nat-gateway add-dnat "$gateway" --external "$address:80" --internal 172.16.1.7:8080
until_so 20 "the first host answers for $address" answers 1
agent 2
until_so 30 "two hosts are ready" ready 2
{
    kill -9 "${agents[1]}"
    wait "${agents[1]}" || true
} 2>/dev/null
until_so 30 "the gateway works on the second host" available_elsewhere
until_so 20 "the second host answers for $address" answers 2
agent 1
until_so 30 "the first host is back" ready 2
until_so 20 "the first host has let go of it" has_nothing 1
answers 2 || fail "the second host does not answer any more"
ecsctl nat-gateway delete "$gateway" --force
until_so 20 "the second host has let go of it" has_nothing 2
ecsctl eip release "$eip" || fail "the EIP is not free"
ecsctl host objects --leaks >/dev/null || fail "something is left on a host"
echo "ok"
