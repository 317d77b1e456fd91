#!/usr/bin/env bash
# Fuzzes every target for a while. The seeded tests of the crates, which `make test` runs, cover the
# same entry points without nightly.
# Usage: tests/fuzz/run.sh [SECONDS_PER_TARGET] [TARGET...]
# Needs: rustup toolchain install nightly; cargo install cargo-fuzz; e2fsprogs, fdisk, qemu-utils.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin:/sbin
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs targets/*.rs)

# Seeds: what the parsers expect, for the fuzzer to damage.
seed_disks() {
    local work=$1 options size
    mkdir -p "$work/root/boot/grub" "$work/root/etc"
    { printf '\0%.0s' {1..510}; printf '\x55\xaa\0\0HdrS\x0f\x02'; } >"$work/root/boot/vmlinuz-6.1"
    truncate -s 8K "$work/root/boot/vmlinuz-6.1"
    printf '\x01' | dd of="$work/root/boot/vmlinuz-6.1" bs=1 seek=566 conv=notrunc status=none
    echo initrd >"$work/root/boot/initrd.img-6.1"
    cp ../../crates/bootimage/tests/configurations/debian.cfg "$work/root/boot/grub/grub.cfg"
    sed -i 's/6\.1\.0-18/6.1/; s/@default@/0/' "$work/root/boot/grub/grub.cfg"
    local number=0
    for options in '-b 1024 -O ^metadata_csum,^has_journal' '-b 1024 -O ^has_journal' '-b 1024 -O ^extents,^metadata_csum'; do
        size=384K
        [[ $options = *has_journal* ]] || size=2M
        # shellcheck disable=SC2086
        mke2fs -q -F -t ext4 -N 32 $options -d "$work/root" "corpus/bootimage_disk/ext4-$((number++))" $size
    done
    for label in gpt dos; do
        truncate -s 2M "$work/disk"
        echo "label: $label
start=2048, type=linux" | sfdisk -q "$work/disk"
        dd if=corpus/bootimage_disk/ext4-0 of="$work/disk" bs=512 seek=2048 conv=notrunc status=none
        mv "$work/disk" "corpus/bootimage_disk/$label"
    done
}

seed_qcow2() {
    local options
    for options in compat=1.1 compat=0.10 cluster_size=512 extended_l2=on,cluster_size=16K; do
        qemu-img create -q -f qcow2 -o "$options" "corpus/qcow2_image/$options" 1M
        qemu-io -c 'write -P 7 64K 64K' "corpus/qcow2_image/$options" >/dev/null
    done
}

for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    if [ -z "$(ls -A "corpus/$target")" ]; then
        work=$(mktemp -d)
        case $target in
        bootimage_disk) seed_disks "$work" ;;
        bootimage_grub) cp ../../crates/bootimage/tests/configurations/*.cfg "corpus/$target" ;;
        qcow2_image) seed_qcow2 ;;
        esac
        rm -rf "$work"
    fi
    echo "== $target: $seconds s"
    cargo +nightly fuzz run --fuzz-dir . "$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=2200000 -print_final_stats=1
done
