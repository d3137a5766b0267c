#!/usr/bin/env bash
# Builds the dashboard and the program, then runs a three-node cluster with two sample services until
# Ctrl-C. Arguments go to 'maxine dev': scripts/dev.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v npm >/dev/null 2>&1 && [ -f ui/package.json ]; then
  if [ ! -f ui/dist/index.html ] || [ -n "$(find ui/src ui/index.html ui/package.json -newer ui/dist/index.html -print -quit)" ]; then
    echo "building the dashboard"
    npm --prefix ui ci --no-audit --no-fund --silent
    npm --prefix ui run --silent build
  fi
else
  echo "Node.js is not installed: the nodes will show how to build the dashboard instead of it"
fi
echo "building maxine (a few minutes the first time)"
cargo build --profile local --locked --bin maxine
exec target/local/maxine dev "$@"
