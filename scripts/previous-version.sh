#!/usr/bin/env bash
# Builds the version before this one into FOLDER/maxine, for the chaos tests' upgrade from it: the newest
# release's tag that is not this very commit, or else the commit before.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?usage: scripts/previous-version.sh FOLDER}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if ! commit=$(git rev-parse --verify --quiet "$(git describe --tags --abbrev=0 HEAD~1 2>/dev/null || echo HEAD~1)^{commit}"); then
  echo "there is no version before this one" >&2
  exit 1
fi

tree=$(mktemp -d)
trap 'git worktree remove --force "$tree" >/dev/null 2>&1 || true' EXIT
git worktree add --detach --quiet "$tree" "$commit"
echo "building $(git log -1 --format='%h %s' "$commit")"
# The dashboard is no part of an upgrade of the cluster: an empty one will do.
mkdir -p "$tree/ui/dist"
cargo build --release --locked --manifest-path "$tree/Cargo.toml" -p maxine --target-dir "$folder/build"
cp "$folder/build/release/maxine" "$folder/maxine"
