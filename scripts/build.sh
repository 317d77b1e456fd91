#!/usr/bin/env bash
# Builds the programs and puts them in target/release, wherever cargo keeps its own files.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=env.sh
source scripts/env.sh

programs=(ecsctl ecs-controller ecs-agent ecs-vmm ecs-bootimage)
cargo build --release --locked -p cli -p controller -p agent -p vmm -p bootimage
if [[ -n ${CARGO_TARGET_DIR:-} && $(realpath -m "$CARGO_TARGET_DIR") != $(realpath -m target) ]]; then
    mkdir -p target/release
    for program in "${programs[@]}"; do
        install "$CARGO_TARGET_DIR/release/$program" "target/release/$program"
    done
fi
