#!/usr/bin/env bash
# Formatting, clippy with warnings denied, and cargo-deny. Stops at the first that fails, or runs the
# one that is named: lint.sh [fmt|clippy|deny]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=env.sh
source scripts/env.sh
# Pinned, so that a new release neither finds something else nor needs a newer Rust.
cargo_deny=0.20.2
PATH=$PWD/target/tools/bin:$PATH

lint_fmt() { cargo fmt --all --check; }

lint_clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

# Advisories are in a database on another site; licences, sources and bans need none.
lint_deny() {
    if [[ $(cargo deny --version 2>/dev/null) != "cargo-deny $cargo_deny" ]]; then
        echo "building cargo-deny $cargo_deny, once"
        cargo install --locked --quiet --debug --root target/tools "cargo-deny@$cargo_deny"
    fi
    if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked check
    else
        # scripts/test.sh counts such lines.
        echo "skipped: cargo-deny's advisories: their database cannot be reached from here"
        cargo deny --locked check licenses bans sources
    fi
}

if (($#)); then
    "lint_$1"
else
    lint_fmt && lint_clippy && lint_deny
fi
