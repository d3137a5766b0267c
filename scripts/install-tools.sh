#!/usr/bin/env bash
# Installs what the tests need beside Rust and Node.js: Redis with Sentinel (for the Redis mode),
# tools for networks, disks and clocks (for the fault tests), Chromium (for the dashboard's tests) and cargo-deny. What is
# there already is left alone; what cannot be installed here is named, and the tests that need it fail
# with the same hint.
set -euo pipefail

packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
need redis-server redis-server
need redis-sentinel redis-sentinel
need ip iproute2
need nft nftables
need strace strace
need mkfs.ext4 e2fsprogs
need faketime faketime
need chromium chromium
need curl curl
need cc build-essential

if [ "${#packages[@]}" -gt 0 ]; then
  if command -v apt-get >/dev/null 2>&1; then
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo"
    echo "installing: ${packages[*]}"
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    # The packages start their own servers; the tests start theirs.
    for service in redis-server redis-sentinel; do
      $sudo systemctl disable --now "$service" >/dev/null 2>&1 || true
    done
  else
    echo "no apt-get here: install ${packages[*]} in your system's way" >&2
    exit 1
  fi
fi

if ! cargo deny --version >/dev/null 2>&1; then
  echo "installing: cargo-deny (a few minutes)"
  cargo install --locked --quiet cargo-deny
fi
