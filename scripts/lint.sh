#!/usr/bin/env bash
# Formatting, clippy with warnings denied, and cargo-deny. Stops at the first that fails, or runs the
# one that is named: lint.sh [fmt|clippy|deny]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

lint_fmt() { cargo fmt --all --check; }

lint_clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

# Advisories are in a database on another site; licences, sources and bans need none.
lint_deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "cargo-deny is not there; building it once, which takes some minutes" >&2
        cargo install --locked --quiet --debug cargo-deny
    fi
    if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked check
    else
        echo "the advisory database cannot be reached from here: licences, bans and sources only" >&2
        cargo deny --locked check licenses bans sources
    fi
}

if (($#)); then
    "lint_$1"
else
    lint_fmt && lint_clippy && lint_deny
fi
