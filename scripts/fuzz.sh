#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, which feed the parsers of untrusted input: all of them, or those that are named.
# The test suite runs the same targets on mutated seeds with stable Rust; this searches further, guided by coverage.
#
#   scripts/fuzz.sh [TARGET...]
#   SECONDS_EACH   how long each target runs (default: 60)
#
# Needs a nightly compiler (rustup toolchain install nightly) and a C++ compiler; installs cargo-fuzz if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

SECONDS_EACH=${SECONDS_EACH:-60}
if ! cargo +nightly --version >/dev/null 2>&1; then
  echo "no nightly compiler: rustup toolchain install nightly --profile minimal" >&2
  exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  cargo install --locked --quiet cargo-fuzz
fi

cargo +nightly run --quiet --manifest-path fuzz/Cargo.toml --bin seeds -- fuzz/seeds
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
  for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target"
  echo "=== $target"
  cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$SECONDS_EACH" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1
done
