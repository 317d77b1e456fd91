#!/usr/bin/env bash
# Measures ecs-vmm against QEMU on this machine, or, where KVM here cannot run stock guests, inside
# one QEMU machine whose own KVM can. Prints a table and writes target/bench/*.json.
# Usage: scripts/bench.sh [--runs N] [--seconds N] [--only boot,memory,block,disks,net,vpc,tiers,networks]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=env.sh
source scripts/env.sh
export PATH=$PATH:/usr/sbin:/sbin
work=target/bench
# Seconds the whole measurement may take where the host's CPU is emulated.
patience=3600
bin=${CARGO_TARGET_DIR:-target}/release
mkdir -p "$work"

cargo build --release -p vmm -p bench -p cli

as_root=()
((EUID == 0)) || as_root=(sudo)
# The load of the disks' levels; only here, as it brings half a storage cluster's libraries.
command -v fio >/dev/null || {
    "${as_root[@]}" apt-get -q -o Acquire::Retries=3 update >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends fio >&2
}

# The kernel both guests boot: Debian's, unpacked, not installed.
find_kernel() {
    { apt-cache depends linux-image-cloud-amd64 2>/dev/null || true; } |
        awk '/Depends: linux-image/ && !found {found = $2} END {print found}'
}
kernel_package=$(find_kernel)
if [ -z "$kernel_package" ]; then
    # A new machine has no package lists yet.
    "${as_root[@]}" apt-get -q -o Acquire::Retries=3 update >&2
    kernel_package=$(find_kernel)
fi
[ -n "$kernel_package" ] || {
    echo "bench: apt knows no linux-image-cloud-amd64; add Debian's main archive to its sources" >&2
    exit 1
}
if [ ! -d "$work/$kernel_package" ]; then
    rm -rf "$work/deb" && mkdir -p "$work/deb"
    (cd "$work/deb" && apt-get download "$kernel_package")
    dpkg -x "$work"/deb/*.deb "$work/$kernel_package.part"
    mv "$work/$kernel_package.part" "$work/$kernel_package"
fi
kernel_tree=$work/$kernel_package
release=$(ls "$kernel_tree/lib/modules")
depmod -b "$kernel_tree" "$release"

# A root folder with busybox, the libraries of some programs, and the modules asked for.
root_folder() { # folder, programs..., --, modules...
    local root=$1; shift
    rm -rf "$root" && mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,lib64,var/tmp}
    cp /bin/busybox "$root/bin/busybox"
    /bin/busybox --list | grep -vx busybox | while read -r applet; do ln -s busybox "$root/bin/$applet"; done
    while [ "$1" != -- ]; do
        # Without what only a debugger reads: a guest would unpack ten times as much at each start.
        strip --strip-debug -o "$root/bin/${1##*/}" "$1"
        { ldd "$1" || true; } | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "$root$(dirname "$library")" && cp -nL "$library" "$root$library"
        done
        shift
    done; shift
    local module file
    for module in "$@"; do
        { modprobe -d "$kernel_tree" -S "$release" --show-depends "$module" || true; } 2>/dev/null
    done | awk '/^insmod/{print $2}' | sort -u | while read -r file; do
        file=lib/modules/${file#*/lib/modules/}
        mkdir -p "$root/$(dirname "$file")" && cp "$kernel_tree/$file" "$root/$file"
    done
    mkdir -p "$root/lib/modules/$release"
    cp "$kernel_tree/lib/modules/$release"/modules.{order,builtin} "$root/lib/modules/$release/"
    depmod -b "$root" "$release"
}
pack() { (cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet | gzip -1) > "$2"; }

guest=$work/guest
root_folder "$guest" "$bin/ecs-bench" -- virtio_pci virtio_blk virtio_net
cat > "$guest/init" <<'INIT'
#!/bin/sh
echo ECS-BENCH-USERLAND
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
if grep -q bench=boot /proc/cmdline; then
    if grep -q bench_modules=1 /proc/cmdline; then
        for module in virtio_pci virtio_blk virtio_net; do modprobe $module; done
        ip link set eth0 up
        head -c 64M /dev/vda > /dev/null
    fi
    echo ECS-BENCH-IDLE
    exec sleep 3600
fi
for module in virtio_pci virtio_blk virtio_net; do modprobe $module; done
address=$(sed -n 's/.*bench_ip=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$address" ]; then
    ip link set eth0 up
    ip addr add "$address" dev eth0
fi
ecs-bench guest
echo ECS-BENCH-DONE
poweroff -f
INIT
chmod +x "$guest/init"
pack "$guest" "$work/guest.cpio.gz"
# The same with fio, apart, as it is large.
fio=$work/fio
root_folder "$fio" "$bin/ecs-bench" "$(command -v fio)" -- virtio_pci virtio_blk
cp "$guest/init" "$fio/init"
pack "$fio" "$work/fio.cpio.gz"

if "$bin/ecsctl" lab probe --quiet; then
    "$bin/ecs-bench" host --vmm "$bin/ecs-vmm" --kernel "$kernel_tree/boot/vmlinuz-$release" \
        --initrd "$work/guest.cpio.gz" --fio-initrd "$work/fio.cpio.gz" --work "$work" "$@" | tee "$work/rows.txt"
else
    host=$work/host
    root_folder "$host" "$bin/ecs-bench" "$bin/ecs-vmm" "$(command -v qemu-system-x86_64)" \
        "$(command -v qemu-img)" "$(command -v ip)" "$(command -v nft)" -- kvm-amd tun vhost_net virtio_pci virtio_blk \
        bridge veth vxlan ifb sch_htb sch_tbf sch_ingress cls_u32 act_mirred nf_tables nft_ct nft_chain_nat nft_limit nft_nat nft_reject_inet nf_conntrack_netlink
    mkdir -p "$host/usr/share/qemu" "$host/bench"
    # QEMU looks for its ROMs relative to its own folder, which is /bin here.
    ln -s usr/share "$host/share"
    for rom in bios-256k.bin bios-microvm.bin linuxboot_dma.bin kvmvapic.bin pvh.bin; do
        find /usr/share/qemu /usr/share/seabios -name $rom -exec cp -L {} "$host/usr/share/qemu/" \; -quit
    done
    cp "$kernel_tree/boot/vmlinuz-$release" "$host/bench/kernel"
    cp "$work/guest.cpio.gz" "$host/bench/initrd"
    cp "$work/fio.cpio.gz" "$host/bench/fio-initrd"
    cat > "$host/init" <<INIT
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ip link set lo up
for module in virtio_pci virtio_blk kvm-amd tun vhost_net bridge veth vxlan ifb sch_htb sch_tbf sch_ingress cls_u32 \
    act_mirred nf_tables nft_ct nft_chain_nat nft_limit nft_nat nft_reject_inet nf_conntrack_netlink; do modprobe \$module; done
mount -t ext4 /dev/vda /var/tmp
# The first processor runs no guest, see docs/design.md, "The lab".
taskset 6 ecs-bench host --vmm /bin/ecs-vmm --kernel /bench/kernel --initrd /bench/initrd --fio-initrd /bench/fio-initrd --work /var/tmp $* && echo ECS-BENCH-HOST-DONE
poweroff -f
INIT
    chmod +x "$host/init"
    pack "$host" "$work/host.cpio.gz"
    truncate -s 4G "$work/disk.raw" && mkfs.ext4 -qF "$work/disk.raw"
    # What it ended with does not matter: the last line it must print does. The processor does not say
    # that it moves bytes fast, docs/design.md, "The lab".
    timeout --foreground "$patience" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-erms,-fsrm -smp 3 -m 4096 -M q35 -nodefaults \
        -display none -no-reboot -serial stdio -kernel "$kernel_tree/boot/vmlinuz-$release" \
        -initrd "$work/host.cpio.gz" -append "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable" \
        -drive "file=$work/disk.raw,format=raw,if=virtio,cache=unsafe" < /dev/null | tee "$work/rows.txt" || true
    rm -f "$work/disk.raw"
    grep -q ECS-BENCH-HOST-DONE "$work/rows.txt" || {
        echo "bench: the measurement did not finish (it has $patience s); $work/rows.txt shows how far it came" >&2
        exit 1
    }
fi
# What VPC networks cost is measured in this machine's own kernel, without guests.
if [[ " $*" != *" --only"* || " $*" == *networks* ]]; then
    "${as_root[@]}" "$bin/ecs-bench" networks --work "$work" | tee -a "$work/rows.txt"
fi
partial=()
if [[ " $*" == *" --only"* ]]; then
    partial=(--partial)
else
    # Levels that no medium here is fast enough for: the limiter alone, in simulated time.
    cargo test --release -p vmm --lib -- --ignored --nocapture every_disk_keeps_to_its_formula |
        tee -a "$work/rows.txt"
fi
"$bin/ecs-bench" report "$work/rows.txt" --out "$work" "${partial[@]}"
