#!/usr/bin/env bash
# Builds the version after this one (the feature 'next') as target/next/maxine, for the tests of mixed clusters.
# Only the crates that depend on the state are compiled anew: the build asks for a test of the package, so that the
# dependencies have the same features as for 'cargo test --workspace', and shares its folder.
set -euo pipefail
cd "$(dirname "$0")/.."

# The build takes the name target/debug/maxine; whatever had it gets it back.
mkdir -p target/next
rm -f target/next/before
[ ! -f target/debug/maxine ] || ln target/debug/maxine target/next/before
cargo test --workspace --locked --quiet --no-run --features maxine/next --test architecture
ln -f target/debug/maxine target/next/maxine
rm target/debug/maxine
[ ! -f target/next/before ] || mv target/next/before target/debug/maxine
target/next/maxine --version | tail -1
