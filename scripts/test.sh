#!/usr/bin/env bash
# Every test of the project: lints, the tests of each crate, the fuzz targets for a while, then
# end-to-end tests in a lab of their own. Goes on after a failure, so that one run tells all; the last
# line counts them. What is not run counts as skipped, and is said with its reason before that line.
set -uo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=env.sh
source scripts/env.sh
need_root "make test"
export ECS_LAB_DIR=$PWD/target/lab-test
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
ecsctl=target/release/ecsctl
# From a clean clone, on two cores.
limit=3600

passed=0 failed=0 skipped=0 broken=() reasons= why_skipped= repeated=
# What the last step printed.
last_log=$(mktemp)

# sum LOG FIELD: of a field of the lines in which cargo's tests count themselves.
sum() { awk -v field="$2" '/^test result:/ {n += $field} END {print n + 0}' "$1"; }

# step NAME SECONDS COMMAND...: one pass or failure; what it prints of cargo's tests counts instead.
# Lines that begin with "skipped: " say what a command did not run, and why.
step() {
    local name=$1 seconds=$2 log=$last_log status started=$SECONDS
    shift 2
    printf '\n=== %s\n' "$name"
    timeout --kill-after=30 "$seconds" "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    ((status != 124 && status != 137)) || echo "error: $name: not done after $seconds s" | tee -a "$log"
    local p f s
    p=$(sum "$log" 4)
    f=$(sum "$log" 6)
    s=$(($(sum "$log" 8) + $(sum "$log" 12) + $(grep -c '^skipped: ' "$log")))
    if ((p + f > 0)); then
        passed=$((passed + p)) failed=$((failed + f))
        # A build that broke or a time-out fails without any test saying so.
        ((status == 0 || f > 0)) || failed=$((failed + 1))
    elif ((status == 0)); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    skipped=$((skipped + s))
    ((s == 0)) || why_skipped+=$(grep -E '^skipped: |^test .* \.\.\. ignored|[1-9][0-9]* filtered out' "$log" | sed "s/^/$name: /")$'\n'
    ((status == 0)) || broken+=("$name")
    # Said again at the end, where a reader looks first.
    ((status == 0)) || reasons+=$(grep -A 6 -E '^error|Error: |panicked at|^test .* FAILED' "$log" | cut -c 1-300 | head -n 40)$'\n'
    printf '=== %s: %s in %d s\n' "$name" "$( ((status == 0)) && echo ok || echo FAILED)" $((SECONDS - started))
    return "$status"
}

# lab_tests_not_run WHY [NAME...]: the lab's tests, of these files or all, when something before them
# has failed: failed as well, each of them.
lab_tests_not_run() {
    local count files=("${@:2}")
    ((${#files[@]} > 0)) && files=("${files[@]/%/.rs}") || files=("*.rs")
    # shellcheck disable=SC2086
    count=$(cd tests/lab/tests && cat ${files[*]} | grep -c '^#\[test\]')
    printf '\n=== tests in the lab: not run, as %s\n' "$1"
    failed=$((failed + count)) broken+=("tests in the lab: $count not run, as $1")
}

# start_lab TITLE: a new lab of $hosts hosts.
hosts=1
start_lab() {
    local size=()
    ((hosts == 1)) || size=(--hosts "$hosts" --memory 3072)
    step "$1" 480 $ecsctl lab up --wipe --timeout 300 "${size[@]}"
}

# Panics of the hosts' kernels since the lab was started.
host_panics() {
    $ecsctl lab status -o json 2>/dev/null | grep -o '"panics": *[0-9]*' | awk -F: '{n += $2} END {print n + 0}'
}

# lab_test NAME: one file of tests in the lab. The emulator of the hosts has faults (docs/design.md,
# "The lab"): a host's kernel panics, or a guest never comes as far as to print anything. Only where a
# host's console shows a panic, or a test says that a guest printed nothing at all, is a failure put
# down to them: the file then runs once more, in a new lab, and that is said at the end.
lab_test() {
    local before=("$passed" "$failed" "$skipped" "${#broken[@]}" "$reasons" "$why_skipped")
    local panics why run=(1200 cargo test -p lab-tests --locked --no-fail-fast --test "$1" -- --test-threads=1 --nocapture)
    panics=$(host_panics)
    step "lab: $1" "${run[@]}" && return
    if (($(host_panics) > panics)); then
        why="the kernel of an emulated host panicked under it"
    elif grep -q 'this guest has printed nothing at all' "$last_log"; then
        why="a guest printed nothing at all"
    fi
    lab_logs
    if [ -z "${why-}" ]; then
        # Whatever state it left the lab in is not the next file's.
        start_lab "lab up, after a failure"
        return
    fi
    printf '\n=== lab: %s: %s: once more, in a new lab\n' "$1" "$why"
    passed=${before[0]} failed=${before[1]} skipped=${before[2]} broken=("${broken[@]:0:${before[3]}}")
    reasons=${before[4]} why_skipped=${before[5]}
    repeated+="repeated: lab: $1, as $why"$'\n'
    start_lab "lab up, again" && step "lab: $1, again" "${run[@]}" || lab_logs
}

lab_logs() {
    local what
    for what in "" "lab-1" "lab-1 --console"; do
        printf '\n--- ecsctl lab logs %s\n' "$what"
        # shellcheck disable=SC2086
        timeout 60 $ecsctl lab logs $what 2>&1 | tail -n 60
    done
    printf '\n--- where the processors of lab-1 are\n'
    timeout 60 $ecsctl lab logs lab-1 --processors 2>&1 | grep -E '^(CPU|RIP|RSP|CR2|Error)'
}

scripts/install-deps.sh || exit 1
step "format" 120 scripts/lint.sh fmt
step "build" 1800 scripts/build.sh
built=$?
step "clippy" 1200 scripts/lint.sh clippy
step "cargo-deny" 1200 scripts/lint.sh deny
step "tests of each crate" 1800 cargo test --workspace --exclude lab-tests --locked --no-fail-fast
step "fuzz" 1200 tests/fuzz/run.sh 5
((built != 0)) || step "a NAT gateway moves between hosts" 180 tests/network/nat_failover.sh
if ((built != 0)); then
    lab_tests_not_run "the programs do not build"
elif ! step "images" 1500 $ecsctl image build tiny debian-12 lab-host; then
    lab_tests_not_run "there are no images for them"
else
    step "an image built twice is the same" 600 tests/images/reproducible.sh tiny
    trap '$ecsctl lab down >/dev/null 2>&1' EXIT
    # Longer than ecsctl itself waits, so that it can say what it waited for.
    # Files that begin with hosts_ need several hosts, and get a lab of their own.
    for hosts in 1 3; do
        files=()
        for file in tests/lab/tests/*.rs; do
            name=$(basename "$file" .rs) needed=1
            [[ $name != hosts_* ]] || needed=3
            ((needed != hosts)) || files+=("$name")
        done
        if start_lab "lab up, hosts: $hosts"; then
            for name in "${files[@]}"; do
                lab_test "$name"
            done
        else
            lab_logs
            lab_tests_not_run "the lab of $hosts hosts is not up" "${files[@]}"
        fi
        step "lab down" 120 $ecsctl lab down --wipe
    done
    trap - EXIT
fi

rm -f "$last_log"
if ((SECONDS > limit)); then
    failed=$((failed + 1)) broken+=("all of it in $limit s")
fi
echo
((failed == 0)) || printf '%s\n' "$reasons"
((failed == 0)) || printf 'failed: %s\n' "${broken[@]}"
printf '%s' "$why_skipped" "$repeated"
echo "$SECONDS s in all, of $limit s at most"
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
