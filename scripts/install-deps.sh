#!/usr/bin/env bash
# Installs what building, the lab and the tests need, and only what is missing. Asks nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
    # Building.
    build-essential ca-certificates curl git pkg-config
    # Images.
    mmdebstrap debian-archive-keyring e2fsprogs fdisk qemu-utils cpio zstd kmod busybox-static
    # The lab and the tests.
    qemu-system-x86 nftables iproute2 iperf3 openssh-client procps
)

say() { printf 'deps: %s\n' "$*" >&2; }

as_root=()
if ((EUID != 0)); then
    command -v sudo >/dev/null || {
        say "run this as root, or install sudo: packages must be installed and a lab makes disk images"
        exit 1
    }
    as_root=(sudo)
fi

command -v apt-get >/dev/null || {
    say "this machine has no apt-get. Install by hand what Debian calls: ${packages[*]}"
    exit 1
}

find_missing() {
    local package
    missing=()
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] && continue
        # Another package may provide it: busybox is in the way of busybox-static, and as good here.
        [[ $package == busybox-static ]] && command -v busybox >/dev/null && continue
        missing+=("$package")
    done
}

# Installing one package may remove another that came from elsewhere (a backport of qemu-utils does
# not stand beside the release's qemu-system-x86), so look again.
find_missing
for round in 1 2 3; do
    ((${#missing[@]})) || break
    say "installing ${missing[*]}"
    log=$(mktemp)
    if ! { { ((round > 1)) || "${as_root[@]}" apt-get -q -o Acquire::Retries=3 update; } &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 \
            -o Dpkg::Options::=--force-confold install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        say "apt-get failed; the whole log is in $log"
        exit 1
    fi
    rm -f "$log"
    find_missing
done
((${#missing[@]} == 0)) || {
    say "apt-get installs and removes by turns: ${missing[*]}; install them by hand"
    exit 1
}

# shellcheck source=env.sh
source scripts/env.sh
if ! rust_is_new_enough; then
    say "installing Rust $rust_wanted with rustup, beside what is there"
    if ! command -v rustup >/dev/null; then
        if apt-cache show rustup >/dev/null 2>&1; then
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y install rustup >/dev/null
        else
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --no-modify-path --default-toolchain none
        fi
    fi
    rustup -q toolchain install "$rust_wanted" --profile minimal -c clippy -c rustfmt
    export RUSTUP_TOOLCHAIN=$rust_wanted
    rust_is_new_enough || {
        say "cargo $rust_wanted or newer is needed; found: $(cargo --version 2>&1)"
        exit 1
    }
fi
for part in clippy fmt; do
    cargo "$part" --version >/dev/null 2>&1 || rustup -q component add clippy rustfmt
done
