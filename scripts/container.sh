#!/usr/bin/env bash
# Builds the image of deploy/container/Containerfile without an image registry: the program exists already, and the Debian
# from which the libraries come is made from Debian's packages.
#
#   scripts/container.sh [--binary FILE] [--base ARCHIVE] [TAG]
#
#   --binary    the program (default: target/release/maxine); the image gets a stripped copy
#   --base      a tar archive of a Debian with ca-certificates (default: made by mmdebstrap, which takes minutes)
#   TAG         the image's name (default: localhost/maxine:VERSION)
#
# Needs buildah (with podman or without), binutils, and mmdebstrap if no archive is given. Run it as root.
set -euo pipefail
cd "$(dirname "$0")/.."

BINARY=target/release/maxine
BASE=
TAG=
while [ $# -gt 0 ]; do
  case "$1" in
    --binary) BINARY=$2; shift ;;
    --base) BASE=$2; shift ;;
    -*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) TAG=$1 ;;
  esac
  shift
done
[ -x "$BINARY" ] || { echo "$BINARY is not there: cargo build --release --locked" >&2; exit 1; }

DIR=$(mktemp -d)
DEBIAN=localhost/maxine-debian-$$
stop() {
  buildah rmi -f "$DEBIAN" >/dev/null 2>&1 || true
  rm -rf "$DIR"
}
trap stop EXIT

VERSION=$("$BINARY" --version | sed -n '1s/^maxine //p')
REVISION=$(git rev-parse HEAD)
TAG=${TAG:-localhost/maxine:$VERSION}

if [ -z "$BASE" ]; then
  echo "making a Debian from its packages" >&2
  BASE=$DIR/debian.tar
  # The same distribution as here, because the program was linked with its C library.
  mmdebstrap --quiet --variant=minbase --include=ca-certificates "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$BASE"
fi
container=$(buildah from --quiet scratch)
buildah add --quiet "$container" "$BASE" / >/dev/null
buildah commit --quiet --rm "$container" "$DEBIAN" >/dev/null

# The stages of the Containerfile after the one that compiles. The others need images of a registry.
mkdir "$DIR/context" "$DIR/program"
strip --strip-all -o "$DIR/program/maxine" "$BINARY"
cp -r deploy "$DIR/context/"
{
  echo 'ARG DEBIAN'
  sed -n '/^# Gives \/root-of-image/,$p' deploy/container/Containerfile
} >"$DIR/Containerfile"
buildah bud --quiet --format docker --isolation chroot --network host --pull-never \
  --build-arg DEBIAN="$DEBIAN" --build-arg VERSION="$VERSION" --build-arg REVISION="$REVISION" \
  --build-context program="$DIR/program" --tag "$TAG" -f "$DIR/Containerfile" "$DIR/context" >/dev/null
echo "$TAG: $(($(buildah inspect --type image --format '{{len .OCIv1.RootFS.DiffIDs}}' "$TAG"))) layers," \
  "$(buildah images --format '{{.Size}}' "$TAG")"
