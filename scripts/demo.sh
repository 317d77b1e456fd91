#!/usr/bin/env bash
# From a fresh Debian machine to an instance you are logged in to, with no questions. Run again, it
# uses what is there. Exit code 0 only when cloud-init was done and the command over SSH answered.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
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
    id=$("$ecsctl" -o name "${list[@]}" | head -n 1)
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
image=$("$ecsctl" image list --name "$image_name" --status Available -o name | head -n 1)
if [[ -z $image ]]; then
    image=$("$ecsctl" -o name image import "$file" --name "$image_name" --platform Debian --family debian-12)
fi
echo "$image"

step "Network, security group, key"
vpc=$(first_or vpc list --name $name -- vpc create --name $name --cidr 172.16.0.0/12)
vswitch=$(first_or vswitch list --vpc "$vpc" -- vswitch create --vpc "$vpc" --name $name --cidr 172.16.1.0/24)
group=$(first_or security-group list --vpc "$vpc" --name $name -- security-group create --vpc "$vpc" --name $name)
"$ecsctl" security-group show "$group" | grep -q '22/22' ||
    "$ecsctl" -o name security-group authorize "$group" --port 22/22 --cidr 0.0.0.0/0 >/dev/null
key=$ECS_LAB_DIR/$name.pem
if [[ ! -f $key || -z $("$ecsctl" -o name key-pair list $name) ]]; then
    "$ecsctl" -o name key-pair list $name | xargs -r "$ecsctl" key-pair delete >/dev/null
    rm -f "$key"
    "$ecsctl" -o name key-pair create $name --file "$key" >/dev/null
fi
echo "$vpc $vswitch $group, private key $key"

step "Instance"
# ecs.c7.large is 2 vCPUs and 4 GiB; where the hosts have less to give, the largest that fits.
wanted=ecs.c7.large
free_mib=$("$ecsctl" -o json host list | awk -F'[:,]' '
    /"memory_mib":/ {all = $2} /"memory_mib_used":/ {if (all - $2 > best) best = all - $2}
    END {print best + 0}')
old=$("$ecsctl" -o name instance list --name $name | xargs)
type=$wanted
reason=
if [[ -z $old ]] && ((free_mib < 4096)); then
    type=$("$ecsctl" -o json instance-type list --available --max-memory "$(awk "BEGIN {print $free_mib / 1024}")" |
        awk -F'"' '/"instance_type_id"/ {id = $4} /"memory_size"/ {split($3, m, /[ :,]+/); if (m[2] >= 0.5 && m[2] > best && id ~ /large|medium|small/) {best = m[2]; pick = id}} END {print pick}')
    [[ -n $type ]] || fail "no host has memory for any instance ($free_mib MiB free); ecsctl instance list shows what uses it"
    reason="the hosts have $free_mib MiB free and $wanted needs 4096"
fi

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

# An instance of an earlier run is used again if it runs and was made from this image.
instance=
for id in $old; do
    if [[ -z $instance && -n $("$ecsctl" -o name instance list "$id" --image "$image" --key-pair $name --status Running) ]]; then
        instance=$id
    else
        "$ecsctl" instance delete "$id" --force --wait
    fi
done
if [[ -n $instance ]]; then
    echo "$instance runs already"
else
    [[ -z $reason ]] || echo "Type $type instead of $wanted: $reason."
    instance=$("$ecsctl" -o name instance run --image "$image" --type "$type" --vswitch "$vswitch" \
        --security-group "$group" --key-pair $name --name $name --host-name $name \
        --user-data "$user_data" --wait --timeout 300)
fi
"$ecsctl" instance list "$instance"

step "Console, until cloud-init is done (at most $((patience / 60)) minutes)"
console=
if [[ $("$ecsctl" instance console-output "$instance" --plain 2>/dev/null) != *"Cloud-init v."*" finished at"* ]]; then
    "$ecsctl" console "$instance" --watch </dev/null | sed -u 's/\r//g; s/\x1b\[[0-9;?]*[A-Za-z]//g; s/^/  | /' &
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
answer=$(remote 120 'echo "cloud-init: $(cloud-init status | head -n 1)"
echo "product:    $(cat /sys/class/dmi/id/product_name)"
echo "instance:   $(curl -s --max-time 20 http://100.100.100.200/latest/meta-data/instance-id)"
echo "user data:  $(cat /var/tmp/demo)"') || fail "the command over SSH did not answer"
echo "$answer"
[[ $answer == *"status: done"* && $answer == *"$instance"* ]] || fail "the instance's answer is not as it must be"

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
