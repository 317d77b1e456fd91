#!/usr/bin/env bash
# Every test of the project: lints, the tests of each crate, then end-to-end tests in a lab of their
# own. Goes on after a failure, so that one run tells all; the last line counts.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
export ECS_LAB_DIR=$PWD/target/lab-test
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0

passed=0 failed=0 broken=() reasons=

# step NAME SECONDS COMMAND...: one pass or failure; what it prints of cargo's tests counts instead.
step() {
    local name=$1 seconds=$2 log status started=$SECONDS
    shift 2
    printf '\n=== %s\n' "$name"
    log=$(mktemp)
    timeout --kill-after=30 "$seconds" "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    ((status != 124)) || echo "$name: not done after $seconds s"
    local p f
    p=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log")
    f=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")
    if ((p + f > 0)); then
        passed=$((passed + p)) failed=$((failed + f))
        # A build that broke or a time-out fails without any test saying so.
        ((status == 0 || f > 0)) || failed=$((failed + 1))
    elif ((status == 0)); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    ((status == 0)) || broken+=("$name")
    # Said again at the end, where a reader looks first.
    ((status == 0)) || reasons+=$(grep -A 6 -E '^error|Error: |panicked at|^test .* FAILED' "$log" | cut -c 1-300 | head -n 40)$'\n'
    printf '=== %s: %s in %d s\n' "$name" "$( ((status == 0)) && echo ok || echo FAILED)" $((SECONDS - started))
    rm -f "$log"
    return "$status"
}

lab_down() { target/release/ecsctl lab down "$@"; }

scripts/install-deps.sh || exit 1
step "format" 120 scripts/lint.sh fmt
step "build" 1800 scripts/build.sh
built=$?
step "clippy" 1200 scripts/lint.sh clippy
step "cargo-deny" 1200 scripts/lint.sh deny
step "tests of each crate" 1800 cargo test --workspace --exclude lab-tests --locked --no-fail-fast
if ((built == 0)); then
    trap 'lab_down >/dev/null 2>&1' EXIT
    if step "images" 1500 target/release/ecsctl image build tiny debian-12 lab-host &&
        step "lab up" 300 target/release/ecsctl lab up --wipe; then
        step "tests in the lab" 2400 cargo test -p lab-tests --locked --no-fail-fast -- --test-threads=1 --nocapture ||
            { target/release/ecsctl lab logs | tail -n 60; target/release/ecsctl lab logs lab-1 | tail -n 60; }
    fi
    step "lab down" 120 target/release/ecsctl lab down --wipe
    trap - EXIT
else
    echo "tests in the lab: not run, as the programs do not build"
    failed=$((failed + 1)) && broken+=("tests in the lab")
fi

echo
((failed == 0)) || printf '%s\n' "$reasons"
((failed == 0)) || printf 'failed: %s\n' "${broken[@]}"
echo "$passed passed, $failed failed"
((failed == 0))
