#!/usr/bin/env bash
# Makes the deb and the rpm from one release binary, into one folder:
#
#   scripts/package.sh [--binary FILE] [--out DIR] [--arch amd64|arm64] [--release N] [deb] [rpm]
#
#   --binary    the program (default: target/release/maxine); the packages get a stripped copy
#   --out       where the packages go (default: target/packages)
#   --arch      the processor that the program is for (default: that of this machine)
#   --release   the number of the packaging of one version (default: 1)
#
#   MAXINE_DOCS_BIN   a program of the same version that runs on this machine, for the manual pages and the completions,
#                     if --binary is for another processor
#
# The version is the program's own. The packages depend on the C library that the program was linked with: build on the
# oldest distribution that they are for. Two runs with the same program and commit give the same bytes.
#
# Needs binutils, and Go 1.25 or newer, with which it builds nfpm once. Debian 12 has Go 1.19.
set -euo pipefail
cd "$(dirname "$0")/.."

NFPM_VERSION=v2.45.2

BINARY=target/release/maxine
OUT=target/packages
ARCH=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
RELEASE=1
KINDS=()
while [ $# -gt 0 ]; do
  case "$1" in
    --binary) BINARY=$2; shift ;;
    --out) OUT=$2; shift ;;
    --arch) ARCH=$2; shift ;;
    --release) RELEASE=$2; shift ;;
    deb | rpm) KINDS+=("$1") ;;
    *) sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
[ "${#KINDS[@]}" -gt 0 ] || KINDS=(deb rpm)
[ -x "$BINARY" ] || { echo "$BINARY is not there: cargo build --release --locked" >&2; exit 1; }
DOCS_BIN=${MAXINE_DOCS_BIN:-$BINARY}

NFPM=$PWD/target/tools/nfpm-$NFPM_VERSION
if [ ! -x "$NFPM" ]; then
  command -v go >/dev/null || { echo "Go is not installed (1.25 or newer): it builds nfpm, which makes the packages" >&2; exit 1; }
  echo "building nfpm $NFPM_VERSION" >&2
  GOBIN=$PWD/target/tools go install "github.com/goreleaser/nfpm/v2/cmd/nfpm@$NFPM_VERSION" || {
    echo "nfpm was not built with $(go version); it needs Go 1.25 or newer" >&2
    exit 1
  }
  mv target/tools/nfpm "$NFPM"
fi

STAGE=$(mktemp -d)
trap 'rm -rf "$STAGE"' EXIT
VERSION=$("$DOCS_BIN" --version | sed -n '1s/^maxine //p')
# The newest version of the C library whose symbols the program uses.
GLIBC=$(readelf --version-info --wide "$BINARY" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -n 1)
# The time of every file in the packages.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export STAGE ARCH VERSION RELEASE GLIBC SOURCE_DATE_EPOCH

# Programs of another processor are stripped by its own binutils.
STRIP=strip
if [ "$ARCH" = arm64 ] && [ "$(uname -m)" != aarch64 ]; then STRIP=aarch64-linux-gnu-strip; fi
"$STRIP" --strip-all -o "$STAGE/maxine" "$BINARY"
"$DOCS_BIN" man "$STAGE/man"
gzip -9n "$STAGE"/man/*.1
"$DOCS_BIN" completions bash >"$STAGE/maxine.bash"
"$DOCS_BIN" completions fish >"$STAGE/maxine.fish"
"$DOCS_BIN" completions zsh >"$STAGE/_maxine"
"$DOCS_BIN" config example >"$STAGE/maxine.toml"
gzip -9nc CHANGELOG.md >"$STAGE/changelog.gz"
# The history of the packaging; changelog.gz has that of the program.
gzip -9nc >"$STAGE/changelog.Debian.gz" <<END
maxine ($VERSION-$RELEASE) unstable; urgency=medium

  * The package of Maxine $VERSION.

 -- The Maxine maintainers <maintainers@maxine.invalid>  $(LC_ALL=C date --utc --rfc-email --date "@$SOURCE_DATE_EPOCH")
END
chmod -R u=rwX,go=rX "$STAGE"

mkdir -p "$OUT"
for kind in "${KINDS[@]}"; do
  "$NFPM" package --config deploy/packages/nfpm.yaml --packager "$kind" --target "$OUT/" >"$STAGE/nfpm.log" || {
    cat "$STAGE/nfpm.log" >&2
    exit 1
  }
done
ls -l "$OUT"
