# Which Rust the scripts use: this machine's own where it is new enough, else the one that
# install-deps.sh puts beside it. What `cargo` is outside of the scripts stays as it is. Sourced, in
# the project's folder.
# shellcheck shell=bash

export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
# The least Rust that builds this is in the workspace's manifest.
rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

rust_is_new_enough() {
    local have
    have=$(cargo --version 2>/dev/null | awk '{print $2}') || return 1
    [[ -n $have && $(printf '%s\n' "$rust_wanted" "$have" | sort -V | head -n 1) == "$rust_wanted" ]]
}

if ! rust_is_new_enough && rustup toolchain list 2>/dev/null | grep -q "^$rust_wanted-"; then
    export RUSTUP_TOOLCHAIN=$rust_wanted
fi

# Images hold files of other users, and hosts of the lab make devices: better said now than after the
# build.
need_root() {
    ((EUID == 0)) || {
        echo "$1: must run as root: it builds disk images and starts a lab. Try: sudo $1" >&2
        exit 1
    }
}
