#!/usr/bin/env bash
# Builds Jaeger from its Go module, once, and prints the path of the program: target/jaeger/jaeger.
#
# It needs Go 1.24 or newer, and takes 5 to 15 minutes. The module has no pages, so this Jaeger answers requests to its
# API, but has no user interface.
#
#   JAEGER_BIN   a Jaeger that is there already; then nothing is built
set -euo pipefail
cd "$(dirname "$0")/.."

# Version 2.13.0 of Jaeger: the number of the Go module is another one.
VERSION=v1.76.0
MODULE=github.com/jaegertracing/jaeger
DIR=target/jaeger

if [ -n "${JAEGER_BIN:-}" ]; then
  echo "$JAEGER_BIN"
  exit
fi
if [ "$(cat "$DIR/version" 2>/dev/null)" != "$VERSION" ]; then
  command -v go >/dev/null || { echo "Go is not installed; Jaeger needs 1.24 or newer" >&2; exit 1; }
  echo "building Jaeger from $MODULE $VERSION (5 to 15 minutes)" >&2
  mkdir -p "$DIR"
  # The module replaces another module, so go install refuses it. A module of its own can have it as a tool.
  rm -f "$DIR/go.mod" "$DIR/go.sum"
  (
    cd "$DIR"
    go mod init jaeger
    go get -tool "$MODULE/cmd/jaeger@$VERSION"
    nice go build -p 2 -ldflags '-s -w' -o jaeger "$MODULE/cmd/jaeger"
  ) >"$DIR/build.log" 2>&1 || {
    tail -n 20 "$DIR/build.log" >&2
    echo "Jaeger was not built with $(go version); it needs Go 1.24 or newer" >&2
    exit 1
  }
  echo "$VERSION" >"$DIR/version"
fi
echo "$PWD/$DIR/jaeger"
