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
