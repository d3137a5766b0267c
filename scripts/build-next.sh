#!/usr/bin/env bash
# Builds the version after this one (the feature 'next') as target/next/maxine, for the tests of mixed clusters.
# Only the crates that depend on the state are compiled anew: the build asks for a test of the package, so that the
# dependencies have the same features as for 'cargo test --workspace', and shares its folder.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --workspace --locked --quiet --no-run --features maxine/next --test architecture
mkdir -p target/next
# The build made target/debug/maxine a name of this very file; the next 'cargo test' gives that name back.
cp --remove-destination target/debug/maxine target/next/maxine
target/next/maxine --version | tail -1
