#!/bin/sh
# Installs the program of a release, after it has checked its checksum:
#
#   install.sh [--from URL] [--to FOLDER] [--version X.Y.Z]
#
#   --from      where the release is: the URL of a folder with SHA256SUMS and the archives. The copy of this script in a release
#               knows it
#   --to        where the program goes (default: /usr/local/bin for root, else ~/.local/bin)
#   --version   the version, if the folder has several (default: the one in SHA256SUMS)
#
# Needs curl or wget, sha256sum and tar. The checksums protect against damage and against a mirror that was changed alone; who
# made them is told by the signatures of the release.
set -eu

FROM=
TO=
VERSION=
while [ $# -gt 0 ]; do
  case "$1" in
    --from) FROM=$2; shift ;;
    --to) TO=$2; shift ;;
    --version) VERSION=$2; shift ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
[ -n "$FROM" ] || { echo "say where the release is: --from URL" >&2; exit 2; }
if [ -z "$TO" ]; then
  if [ "$(id -u)" -eq 0 ]; then TO=/usr/local/bin; else TO=$HOME/.local/bin; fi
fi

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) TARGET=x86_64-linux-gnu ;;
  *) echo "there is no program for $(uname -s) on $(uname -m); build it from the source" >&2; exit 1 ;;
esac

DIR=$(mktemp -d)
trap 'rm -rf "$DIR"' EXIT
get() {
  if command -v curl >/dev/null 2>&1; then
    curl --fail --silent --show-error --location --retry 3 --output "$DIR/$1" "$FROM/$1"
  else
    wget --quiet --tries 3 --output-document "$DIR/$1" "$FROM/$1"
  fi || { echo "$FROM/$1 could not be fetched" >&2; exit 1; }
}

get SHA256SUMS
FILE=$(sed -n "s/^[0-9a-f]\{64\}  \(maxine-${VERSION:-[0-9][^ ]*}-$TARGET\.tar\.gz\)\$/\1/p" "$DIR/SHA256SUMS" | tail -n 1)
[ -n "$FILE" ] || { echo "$FROM/SHA256SUMS names no archive for $TARGET${VERSION:+ of version $VERSION}" >&2; exit 1; }
get "$FILE"
(cd "$DIR" && grep "  $FILE\$" SHA256SUMS | sha256sum --check --status) || {
  echo "the checksum of $FILE is wrong: nothing was installed" >&2
  exit 1
}
mkdir -p "$DIR/content"
tar -xzf "$DIR/$FILE" -C "$DIR/content" --strip-components 1
"$DIR/content/maxine" --version >"$DIR/version" || { echo "the program does not run on this machine" >&2; exit 1; }
mkdir -p "$TO"
# A running program cannot be overwritten, but its file can be replaced.
cp "$DIR/content/maxine" "$TO/.maxine.new"
chmod 0755 "$TO/.maxine.new"
mv "$TO/.maxine.new" "$TO/maxine"
echo "$(head -n 1 "$DIR/version") is in $TO/maxine"
case ":$PATH:" in
  *":$TO:"*) ;;
  *) echo "$TO is not in PATH" ;;
esac
