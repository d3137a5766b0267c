#!/usr/bin/env bash
# Installs what the tests need beside Rust and Node.js: Redis with Sentinel (for the Redis mode),
# tools for networks, disks and clocks (for the fault tests), dig (for the name server), Prometheus and
# Alertmanager (for the alert rules), Chromium (for the dashboard's tests), Python with venv (for the requests
# made from the OpenAPI document), Go and Java (for their SDKs) and cargo-deny. What is there already is left
# alone; what cannot be installed here is named, and the tests that need it fail with the same hint. Without Go
# and Java their SDKs are left out.
#
#   scripts/install-tools.sh release   installs what scripts/release.sh needs instead
set -euo pipefail
# Debian does not put the directories of nft and mkfs.ext4 into the PATH of a user.
PATH="$PATH:/usr/sbin:/sbin"

if [ "${1:-}" = release ]; then
  sudo=""
  [ "$(id -u)" -eq 0 ] || sudo="sudo"
  $sudo apt-get update -qq
  # Go 1.25 or newer is needed too, which Debian 12 does not have. Helm, nfpm, mdBook and cdxgen are installed by the scripts that use them.
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends \
    build-essential binutils curl openssl python3 python3-venv maven ruby \
    mmdebstrap systemd-container lintian rpm rpmlint podman buildah runc >/dev/null
  exit
fi

packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
need redis-server redis-server
need redis-sentinel redis-sentinel
need ip iproute2
need nft nftables
need strace strace
need mkfs.ext4 e2fsprogs
need faketime faketime
need promtool prometheus
need amtool prometheus-alertmanager
need chromium chromium
need curl curl
need dig bind9-dnsutils
need cc build-essential
need openssl openssl
need systemd-analyze systemd
need python3 python3
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || packages+=(python3-venv)

if [ "${#packages[@]}" -gt 0 ]; then
  if command -v apt-get >/dev/null 2>&1; then
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo"
    # The packages that are not installed yet: a package can be there although its command is not.
    new=()
    for package in "${packages[@]}"; do
      dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || new+=("$package")
    done
    echo "installing: ${packages[*]}"
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    # The packages start their own servers; the tests start theirs. A server that was here before is left alone.
    for service in redis-server redis-sentinel prometheus prometheus-alertmanager; do
      if [[ " ${new[*]} " == *" $service "* ]]; then
        $sudo systemctl disable --now "$service" >/dev/null 2>&1 || true
      fi
    done
  else
    echo "no apt-get here: install ${packages[*]} in your system's way" >&2
    exit 1
  fi
fi

optional=()
command -v go >/dev/null 2>&1 || optional+=(golang-go)
command -v javac >/dev/null 2>&1 || optional+=(default-jdk-headless)
if [ "${#optional[@]}" -gt 0 ] && command -v apt-get >/dev/null 2>&1; then
  sudo=""
  [ "$(id -u)" -eq 0 ] || sudo="sudo"
  echo "installing: ${optional[*]}"
  $sudo apt-get update -qq || true
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${optional[@]}" >/dev/null ||
    echo "not installed: ${optional[*]}; the SDKs that need them are not tested" >&2
fi

if ! cargo deny --version >/dev/null 2>&1; then
  echo "installing: cargo-deny (a few minutes)"
  cargo install --locked --quiet cargo-deny
fi
