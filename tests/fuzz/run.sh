#!/usr/bin/env bash
# Fuzzes every target for a while with libFuzzer: coverage by the stable compiler, no sanitizer (the
# targets are Rust with overflow checks; a panic, a hang and too much memory are what they look for).
# The seeded tests of the crates cover the same entry points.
# Usage: tests/fuzz/run.sh [SECONDS_PER_TARGET [TARGET...]]
# Inputs are kept in target/fuzz/corpus while KEEP_CORPUS is set, those that fail always.
set -Eeuo pipefail
trap 'echo "Error: tests/fuzz/run.sh: line $LINENO: $BASH_COMMAND"' ERR
cd "$(dirname "$0")/../.."
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin
seconds=${1:-10}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs tests/fuzz/targets/*.rs)
out=$PWD/target/fuzz

# Bytes in hexadecimal into a file, at an offset: put FILE OFFSET BYTES...
put() {
    local file=$1 offset=$2
    shift 2
    # shellcheck disable=SC2059
    printf "$(printf '\\x%s' "$@")" | dd of="$file" bs=1 seek=$((offset)) conv=notrunc status=none
}

# What the parsers expect, for the fuzzer to damage.
seed_bootimage_disk() {
    local to=$1 work=$2 options size number=0 label boot=$2/root/boot
    mkdir -p "$boot/grub" "$work/root/etc"
    truncate -s 8K "$boot/vmlinuz-6.1"
    put "$boot/vmlinuz-6.1" 0x1f1 04
    put "$boot/vmlinuz-6.1" 0x1fe 55 aa 00 00 48 64 72 53 0f 02
    put "$boot/vmlinuz-6.1" 0x236 01
    echo initrd >"$boot/initrd.img-6.1"
    sed 's/6\.1\.0-18/6.1/; s/@default@/0/' crates/bootimage/tests/configurations/debian.cfg \
        >"$boot/grub/grub.cfg"
    for options in ^metadata_csum,^has_journal ^has_journal ^64bit,^extents,^metadata_csum \
        ^metadata_csum,^64bit; do
        size=384K
        [[ $options = *has_journal* ]] || size=2100K
        mke2fs -q -F -t ext4 -b 1024 -N 32 -O "$options" -d "$work/root" "$to/ext4-$number" $size >/dev/null
        number=$((number + 1))
    done
    # A log to replay: blocks, revocations, blocks again.
    head -c 20K /dev/zero >"$work/data"
    printf '%s\n' jo "jw -b 1900,1901,1902,1903 $work/data" "jw -r 1901,1902" \
        "jw -b 1902,1904 $work/data" jc | debugfs -w -f - "$to/ext4-3" >/dev/null 2>&1
    for label in gpt dos; do
        truncate -s 2M "$to/$label"
        printf 'label: %s\nstart=2048, type=linux\n' $label | sfdisk -q "$to/$label"
        dd if="$to/ext4-0" of="$to/$label" bs=512 seek=2048 conv=notrunc status=none
    done
}

seed_bootimage_grub() {
    cp crates/bootimage/tests/configurations/*.cfg "$1"
}

seed_qcow2_image() {
    local to=$1 options
    for options in compat=1.1,cluster_size=4K compat=0.10,cluster_size=1K \
        cluster_size=512,refcount_bits=1 cluster_size=512,refcount_bits=64; do
        qemu-img create -q -f qcow2 -o "$options" "$to/$options" 1M
        qemu-io -c 'write -P 7 64K 20K' "$to/$options" >/dev/null
    done
    qemu-img snapshot -c kept "$to/compat=0.10,cluster_size=1K"
    qemu-img convert -c -O qcow2 -o cluster_size=4K,compression_type=zstd \
        "$to/cluster_size=512,refcount_bits=1" "$to/compressed"
}

seed_qcow2_compressed() {
    local to=$1 work=$2
    seq 10000 >"$work/data"
    # Deflate without gzip's header and trailer.
    gzip -9nc "$work/data" | tail -c +11 | head -c -8 >"$to/deflate"
    zstd -qc "$work/data" >"$to/zstd"
}

# A queue of 64 with one read of a sector: header, data, status.
seed_virtqueue() {
    local to=$1/read
    truncate -s $((0x5010)) "$to"
    put "$to" 0 06 00 00 00 00 10 00 00 20 00
    put "$to" 0x10 00 30 00 00 00 00 00 00 10 00 00 00 01 00 01 00
    put "$to" 0x20 00 40 00 00 00 00 00 00 00 02 00 00 03 00 02 00
    put "$to" 0x30 00 31 00 00 00 00 00 00 01 00 00 00 02 00 00 00
    put "$to" 0x1012 01 00
}

declare -A longest=(
    [bootimage_disk]=2200000 [bootimage_grub]=65536 [qcow2_image]=400000
    [qcow2_compressed]=65536 [virtqueue]=131088
)

# An explicit target keeps build scripts and macros uninstrumented.
triple=$(rustc -vV | sed -n 's/^host: //p')
flags='--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module'
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$flag"
done
RUSTFLAGS=$flags cargo build --quiet --manifest-path tests/fuzz/Cargo.toml \
    --target "$triple" --target-dir "$out"

passed=0 failed=0
for target in "${targets[@]}"; do
    seeds=$out/seeds/$target corpus=$out/corpus/$target failures=$out/failures/$target
    log=$out/$target.log
    rm -rf "$seeds"
    [ -n "${KEEP_CORPUS:-}" ] || rm -rf "$corpus"
    mkdir -p "$seeds" "$corpus" "$failures"
    work=$(mktemp -d)
    "seed_$target" "$seeds" "$work"
    rm -rf "$work"
    # An input takes milliseconds; the time is for a machine that does other things as well.
    if "$out/$triple/debug/$target" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 \
        -max_len="${longest[$target]}" -artifact_prefix="$failures/" -print_final_stats=1 \
        "$corpus" "$seeds" >"$log" 2>&1 &&
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log") && ((runs > 0)); then
        passed=$((passed + 1))
        covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
        echo "fuzz: $target: $runs inputs, $covered edges, in $seconds s"
    else
        failed=$((failed + 1))
        tail -n 40 "$log"
        echo "Error: fuzz: $target failed; its input is in $failures"
    fi
done
echo "fuzz: $passed passed, $failed failed"
echo "test result: $( ((failed == 0)) && echo ok || echo FAILED). $passed passed; $failed failed; 0 ignored"
((failed == 0))
