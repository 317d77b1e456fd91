# What a person sees while an image is built. Sourced by build.sh.

started=$SECONDS

say() {
    printf '[%3ds] %s: %s\n' $((SECONDS - started)) "${name:-images}" "$*" >&2
}

fail() {
    printf 'build.sh: %s: %s\n' "${name:-images}" "$*" >&2
    exit 1
}

# Runs a command quietly; its output is shown only when it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        fail "failed: $*"
    fi
    rm -f "$log"
}

# followed WHAT TOTAL PATTERN COMMAND...: the same, and says how many of TOTAL lines that match PATTERN
# the command has printed.
followed() {
    local what=$1 total=$2 pattern=$3 log poller
    shift 3
    log=$(mktemp)
    # The command is in the foreground, so that Ctrl-C ends it; the poller ends with this shell.
    (
        last=
        while sleep 2 >/dev/null 2>&1 && kill -0 $$; do
            percent=$(($(grep -cE "$pattern" "$log" || true) * 20 / total * 5))
            ((percent < 100)) || percent=99
            [[ $percent == "$last" ]] || say "$what, $percent %"
            last=$percent
        done
    ) &
    poller=$!
    if ! "$@" >"$log" 2>&1; then
        kill $poller
        wait $poller 2>/dev/null || true
        tail -n 40 "$log" >&2
        rm -f "$log"
        fail "failed: $*"
    fi
    kill $poller
    wait $poller 2>/dev/null || true
    rm -f "$log"
}

# require_tools TOOL:PACKAGE...
require_tools() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    ((${#missing[@]} == 0)) || fail "missing tools; run: apt-get install -y ${missing[*]}"
    ((EUID == 0)) || fail "must run as root: files in an image belong to other users"
    export PATH=$PATH:/usr/sbin:/sbin
}
