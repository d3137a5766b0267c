#!/usr/bin/env bash
# Compares the name server of a node with unbound that answers the same questions from its cache: answers per
# second, and processor time of the server for each answer, which depends less on what else the machine does.
#
#   scripts/dns-bench.sh [SECONDS]
#
# The server runs on core 0, dnsperf on core 1; the servers take turns. Everything listens on loopback and ends with
# the script. docs/reference/benchmarks.md has the last results. Needs dnsperf, unbound, curl and python3.
#
#   MAXINE_BIN   the binary (default: target/release/maxine)
set -euo pipefail
cd "$(dirname "$0")/.."

SECONDS_EACH=${1:-5}
BIN=${MAXINE_BIN:-target/release/maxine}
SERVICES=500
TURNS=3
PATH="$PATH:/usr/sbin"
for program in "$BIN" dnsperf unbound curl python3; do
  command -v "$program" >/dev/null || { echo "$program is not there" >&2; exit 1; }
done

DIR=$(mktemp -d)
PIDS=()
stop() {
  status=$?
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ "$status" -ne 0 ]; then tail -n 20 "$DIR"/*.log >&2; fi
  rm -rf "$DIR"
  exit "$status"
}
trap stop EXIT
trap "exit 143" TERM INT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
HTTP=$(free_port)
NODE=$(free_port)
UNBOUND=$(free_port)

# An hour of TTL, so that unbound keeps the answers.
taskset -c 0 "$BIN" serve --port "$HTTP" --dns-port "$NODE" --dns-ttl-s 3600 --dns-negative-ttl-s 3600 \
  --data-dir "$DIR/data" >"$DIR/node.log" 2>&1 &
NODE_PID=$!
PIDS+=("$NODE_PID")
cat >"$DIR/unbound.conf" <<CONF
server:
  interface: 127.0.0.1@$UNBOUND
  num-threads: 1
  username: ""
  chroot: ""
  directory: "$DIR"
  pidfile: "$DIR/unbound.pid"
  use-syslog: no
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "iterator"
  rrset-roundrobin: yes
  access-control: 127.0.0.0/8 allow
forward-zone:
  name: "maxine"
  forward-addr: 127.0.0.1@$NODE
CONF
taskset -c 0 unbound -c "$DIR/unbound.conf" >"$DIR/unbound.log" 2>&1 &
UNBOUND_PID=$!
PIDS+=("$UNBOUND_PID")
for attempt in $(seq 1 150); do
  if curl -sf -o /dev/null "http://127.0.0.1:$HTTP/api/actuator/health"; then break; fi
  if [ "$attempt" = 150 ]; then echo "the node did not answer" >&2; exit 1; fi
  sleep 0.2
done
python3 - "$HTTP" "$SERVICES" <<'PYTHON'
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for service in range(int(sys.argv[2])):
    for instance in range(3):
        address = f"http://10.{service // 250}.{service % 250}.{instance + 1}:8080"
        body = json.dumps({"address": address, "ttl_ms": 3_600_000})
        path = f"/api/v1/services/default/svc-{service}/instances/i{instance}"
        connection.request("PUT", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 201), answer.status
PYTHON
for type in A SRV; do
  for service in $(seq 0 $((SERVICES - 1))); do echo "svc-$service.service.maxine $type"; done >"$DIR/$type"
done

# Processor time of a process, in clock ticks.
ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

# measure NAME PID PORT TYPE
measure() {
  local before after
  before=$(ticks "$2")
  taskset -c 1 dnsperf -s 127.0.0.1 -p "$3" -d "$DIR/$4" -l "$SECONDS_EACH" -c 8 -q 200 -e >"$DIR/dnsperf-out" 2>&1
  after=$(ticks "$2")
  awk -v name="$1" -v type="$4" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
    /Queries completed/ { done = $3 }
    /Queries lost/ { lost = $3 }
    /Queries per second/ { rate = $4 }
    /Response codes/ { codes = $0; sub(/.*Response codes: */, "", codes) }
    END {
      printf "  %-8s %-4s %8.0f answers/s  %6.2f us of processor time an answer  lost %d  %s\n",
        name, type, rate, ticks / hz * 1e6 / done, lost, codes
    }' "$DIR/dnsperf-out"
}

echo "$("$BIN" --version) and $(unbound -V | sed -n '1s/Version/unbound/p'), $(date -u +%F), load $(cut -d ' ' -f 1 /proc/loadavg)"
# Fills the cache of unbound.
for type in A SRV; do
  dnsperf -s 127.0.0.1 -p "$UNBOUND" -d "$DIR/$type" -n 2 -e >/dev/null 2>&1
done
for turn in $(seq 1 "$TURNS"); do
  echo "turn $turn"
  for type in A SRV; do
    measure maxine "$NODE_PID" "$NODE" "$type"
    measure unbound "$UNBOUND_PID" "$UNBOUND" "$type"
  done
done
