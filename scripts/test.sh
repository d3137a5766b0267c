#!/usr/bin/env bash
# Runs every test: formatting, lints, unit and integration tests with real processes, documentation,
# licences, and the dashboard. The last line counts what ran.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
started=$SECONDS
step() { printf '\n=== %s (%d s)\n' "$1" "$((SECONDS - started))"; }

step "tools"
scripts/install-tools.sh

step "formatting"
cargo fmt --all --check

step "one version everywhere, and the links of the documentation"
scripts/version.sh check
scripts/docs.py check

if [ -f ui/package.json ]; then
  step "dashboard: unit and component tests"
  npm --prefix ui ci --no-audit --no-fund --silent
  npm --prefix ui run --silent typecheck
  npm --prefix ui test --silent
  step "dashboard: build"
  npm --prefix ui run --silent build
fi

step "alert rules and dashboards"
scripts/observability.sh check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "the next build, for clusters of two builds"
scripts/build-next.sh

step "unit and integration tests"
# One test program after the other: each starts real nodes of its own, and there may be two cores. Most tests wait for
# time-outs of these nodes, so a program runs more tests at once than there are cores.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log"

step "client packages"
# The tests above have built the server. The nightly run has those in Java too, and the clients under faults.
scripts/sdks.py test node python go rust

if [ -f ui/package.json ]; then
  step "dashboard: end to end, in a browser"
  # The tests above have built the server; it reads the page that was built before them.
  timeout --kill-after=30 900 npm --prefix ui run --silent e2e
fi

step "requests made from the OpenAPI document"
# Against the program that the tests above have run.
timeout 600 scripts/schemathesis.sh

step "the state machine as the next build has it"
cargo test --locked -p maxine-state --features next --lib 2>&1 | tee -a "$log"

step "the log on a slow disk, and the order of sync and acknowledgement"
cargo build --locked --quiet -p maxine-raft --features faults,simulation --example raft_node
cargo test --locked -p maxine-raft --features faults,simulation --test slow_disk --test sync_order 2>&1 | tee -a "$log"

step "documentation"
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --locked --quiet

step "licences, bans and sources"
cargo deny --all-features check --hide-inclusion-graph licenses bans sources
step "advisories"
if cargo deny --all-features fetch db >/dev/null 2>&1; then
  cargo deny --all-features check advisories
else
  echo "NOT CHECKED: the advisory database cannot be fetched from here; .github/workflows/ci.yml checks it"
fi

# The last line: what ran, over all test programs.
count() { awk -v what="$1" '/^test result:/ { for (i = 1; i <= NF; i++) if ($i ~ "^" what) n += $(i - 1) } END { print n + 0 }' "$log"; }
step "done"
echo "$(count passed) passed, $(count failed) failed"
