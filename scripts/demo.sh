#!/usr/bin/env bash
# From a fresh Debian machine to an instance you are logged in to, with no questions. Run again, it
# uses what is there. Exit code 0 only when cloud-init was done and the command over SSH answered.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
# shellcheck source=env.sh
source scripts/env.sh
need_root "make demo"
export ECS_LAB_DIR=${ECS_LAB_DIR:-$root/target/lab}
ecsctl=$root/target/release/ecsctl
name=demo
# A Debian guest takes some minutes where the host's CPU is emulated.
patience=900

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fail() {
    printf '\ndemo: %s\n' "$*" >&2
    exit 1
}

# The first id a list command shows, or what creating one gives: first_or LIST... -- CREATE...
first_or() {
    local list=() id
    while [[ $1 != -- ]]; do list+=("$1") && shift; done
    shift
    id=$("$ecsctl" -o name "${list[@]}" | sed -n 1p)
    [[ -n $id ]] || id=$("$ecsctl" -o name "$@")
    echo "$id"
}

step "Packages"
scripts/install-deps.sh

step "Build"
scripts/build.sh

step "Lab"
"$ecsctl" lab up

step "Image"
file=$("$ecsctl" image build debian-12)/debian-12.qcow2
# One name per content, so that a rebuilt image is imported again and an old one is not used.
image_name=debian-12-$(sha256sum "$file" | cut -c1-12)
image=$("$ecsctl" image list --name "$image_name" --status Available -o name | sed -n 1p)
if [[ -z $image ]]; then
    image=$("$ecsctl" -o name image import "$file" --name "$image_name" --platform Debian --family debian-12)
fi
echo "$image"

step "Network, security group, key"
vpc=$(first_or vpc list --name $name -- vpc create --name $name --cidr 172.16.0.0/12)
vswitch=$(first_or vswitch list --vpc "$vpc" -- vswitch create --vpc "$vpc" --name $name --cidr 172.16.1.0/24)
group=$(first_or security-group list --vpc "$vpc" --name $name -- security-group create --vpc "$vpc" --name $name)
"$ecsctl" security-group show "$group" | grep '22/22' >/dev/null ||
    "$ecsctl" -o name security-group authorize "$group" --port 22/22 --cidr 0.0.0.0/0 >/dev/null
key=$ECS_LAB_DIR/$name.pem
if [[ ! -f $key || -z $("$ecsctl" -o name key-pair list $name) ]]; then
    "$ecsctl" -o name key-pair list $name | xargs -r "$ecsctl" key-pair delete >/dev/null
    rm -f "$key"
    "$ecsctl" -o name key-pair create $name --file "$key" >/dev/null
fi
echo "$vpc $vswitch $group, private key $key"

step "Instance"
user_data=$(mktemp)
trap 'rm -f "$user_data"' EXIT
cat >"$user_data" <<'END'
#cloud-config
write_files:
  - path: /etc/motd
    content: |
      This instance was made by `make demo`.
runcmd:
  - [sh, -c, "echo applied by cloud-init > /var/tmp/demo"]
users:
  - default
  - name: alice
    groups: [sudo]
    shell: /bin/bash
END

# An instance of an earlier run is used again, started if it is stopped, and none is ever deleted here:
# somebody may have put something on it. The tag tells which of them let this key in.
key_tag=demo-key=$(sha256sum "$key" | cut -c1-12)
state() { "$ecsctl" instance status "$1" | awk 'NR == 2 {print $2}'; }
instance=$("$ecsctl" -o name instance list --name $name --tag "$key_tag" | sed -n 1p)
if [[ -n $instance ]]; then
    [[ -n $("$ecsctl" -o name instance list "$instance" --image "$image") ]] ||
        echo "$instance was made of an earlier image; delete it, and the next run makes one of $image."
    for ((tries = 0; tries < 300; tries++)); do
        case $(state "$instance") in
        Running) break ;;
        Stopped)
            "$ecsctl" instance start "$instance" --wait --timeout 300 ||
                fail "instance $instance of an earlier run does not start; delete it if you do not need it: $ecsctl instance delete $instance --force --wait"
            ;;
        esac
        sleep 1
    done
    [[ $(state "$instance") == Running ]] ||
        fail "instance $instance of an earlier run is $(state "$instance") for minutes; $ecsctl instance show $instance says why"
    echo "$instance is there from an earlier run"
else
    # ecs.c7.large is 2 vCPUs and 4 GiB; where no host has so much to give, the largest that fits.
    wanted=ecs.c7.large
    type=$wanted
    why_not=$("$ecsctl" -o json instance-type list $wanted | sed -n 's/^ *"unavailable_reason": "\(.*\)",\{0,1\}$/\1/p')
    if [[ -n $why_not ]]; then
        # Debian needs half a GiB.
        type=$("$ecsctl" instance-type list --available --max-cpus 2 --min-memory 0.5 --max-memory 4 |
            awk 'NR > 1 {print $3, $2, $1}' | sort -k1,1gr -k2,2gr -s | awk 'NR == 1 {print $3}')
        [[ -n $type ]] || fail "no host has room for any instance: $why_not; $ecsctl instance list shows what uses it"
        echo "Type $type instead of $wanted: $why_not."
    else
        echo "Type $type, as a host has its 2 vCPUs and 4 GiB free."
    fi
    instance=$("$ecsctl" -o name instance run --image "$image" --type "$type" --vswitch "$vswitch" \
        --security-group "$group" --key-pair $name --name $name --host-name $name --tag "$key_tag" \
        --user-data "$user_data" --wait --timeout 300)
fi
"$ecsctl" instance list "$instance"

step "Console, until cloud-init is done (at most $((patience / 60)) minutes)"
console=
if [[ $("$ecsctl" instance console-output "$instance" --plain 2>/dev/null) != *"Cloud-init v."*" finished at"* ]]; then
    # Not a pipeline, of which $! is the last program: the first one must end, or it keeps the output
    # open that somebody may read with tee.
    "$ecsctl" console "$instance" --watch </dev/null \
        > >(exec sed -u 's/\r//g; s/\x1b\[[0-9;?]*[A-Za-z]//g; s/^/  | /') &
    console=$!
fi
stop_console() { [[ -z $console ]] || kill "$console" 2>/dev/null || true; console=; }
trap 'rm -f "$user_data"; stop_console' EXIT
remote() {
    timeout "$1" "$ecsctl" ssh "$instance" -i "$key" -O ConnectTimeout=20 -O BatchMode=yes -O LogLevel=ERROR -- "${@:2}"
}
deadline=$((SECONDS + patience))
until status=$(remote 120 cloud-init status --wait 2>/dev/null | tr -d '.\r\n') && [[ $status == *"status: done"* ]]; do
    [[ ${status:-} != *"status: error"* ]] || fail "cloud-init ended with an error; $ecsctl ssh $instance -i $key -- cloud-init status --long says which"
    [[ $("$ecsctl" -o json instance status "$instance") == *Running* ]] ||
        fail "instance $instance does not run any more; $ecsctl instance events $instance and instance show say why"
    ((SECONDS < deadline)) ||
        fail "cloud-init is not done after $patience s (last answer: ${status:-none}); $ecsctl instance console-output $instance shows how far the guest came"
    sleep 3
done
sleep 1
stop_console

step "Over SSH"
answer=$(remote 120 'echo "cloud-init: $(cloud-init status | sed -n 1p)"
echo "product:    $(cat /sys/class/dmi/id/product_name)"
echo "instance:   $(curl -s --max-time 20 http://100.100.100.200/latest/meta-data/instance-id)"
echo "user data:  $(cat /var/tmp/demo)"') || fail "the command over SSH did not answer"
echo "$answer"
for expected in "status: done" "product:    Alibaba Cloud ECS" "instance:   $instance" "applied by cloud-init"; do
    [[ $answer == *"$expected"* ]] || fail "the instance did not answer \"$expected\""
done

cat <<END

The cloud is up, in ${SECONDS} s. Go on with:
  export ECS_LAB_DIR=$ECS_LAB_DIR PATH=$root/target/release:\$PATH
  ecsctl ssh $instance -i $key
  ecsctl console $instance                 # ~. leaves
  ecsctl instance list
  ecsctl instance stop $instance --wait && ecsctl instance start $instance --wait
  ecsctl instance delete $instance --force --wait
  ecsctl lab status; ecsctl lab down
END
