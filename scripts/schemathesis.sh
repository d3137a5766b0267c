#!/usr/bin/env bash
# Sends requests made from the OpenAPI document to a real node of its own and fails on a 5xx that is
# not declared, an undeclared status or content type, or an answer that does not fit its schema.
#
#   MAXINE_BIN   the binary (default: target/debug/maxine)
#   EXAMPLES     requests per operation (default: 25)
#   SEED         seed of the generator (default: 1, so that each run makes the same requests; "random" for others)
#   VENV         where schemathesis is installed (default: target/schemathesis)
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=${MAXINE_BIN:-target/debug/maxine}
EXAMPLES=${EXAMPLES:-25}
SEED=${SEED:-1}
VENV=${VENV:-target/schemathesis}
SCHEMATHESIS_VERSION=4.32.5

if [ ! -x "$BIN" ]; then echo "$BIN is not there: cargo build" >&2; exit 1; fi
# Installed if it is missing, or if it has another version.
if ! "$VENV/bin/st" --version 2>/dev/null | grep -qF "$SCHEMATHESIS_VERSION"; then
  rm -rf "$VENV"
  if ! python3 -m venv "$VENV" || ! "$VENV/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS_VERSION"; then
    rm -rf "$VENV"
    echo "schemathesis $SCHEMATHESIS_VERSION could not be installed: it needs python3 with venv (scripts/install-tools.sh) and PyPI" >&2
    exit 1
  fi
fi
seed=(--seed "$SEED")
[ "$SEED" != random ] || seed=()

DATA=$(mktemp -d)
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
PORT=$(free_port)
RAFT_PORT=$(free_port)
URL="http://127.0.0.1:$PORT"
# One node of its own, in Raft mode, so that the cluster's routes answer too. Its patience is for busy machines.
export MAXINE_REGISTRY_STATE_MODE=raft MAXINE_NODE_ID=1 MAXINE_RAFT_LISTEN="127.0.0.1:$RAFT_PORT"
export MAXINE_RAFT_MEMBERS="1@127.0.0.1:$RAFT_PORT@$URL"
export MAXINE_RAFT_ELECTION_TIMEOUT_MIN_MS=2000 MAXINE_RAFT_ELECTION_TIMEOUT_MAX_MS=4000
# One token makes all changes.
export MAXINE_CHANGES_AT_ONCE_MAX=1000000
export MAXINE_ADMIN_USERNAME=admin MAXINE_ADMIN_PASSWORD="only for $DATA"
"$BIN" serve --port "$PORT" --host 127.0.0.1 --data-dir "$DATA" --log-dir "$DATA/logs" \
  >"$DATA/node.log" 2>&1 &
NODE=$!
stop() {
  status=$?
  kill "$NODE" 2>/dev/null || true
  wait "$NODE" 2>/dev/null || true
  if [ "$status" -ne 0 ]; then tail -n 40 "$DATA/node.log" >&2; fi
  rm -rf "$DATA"
  exit "$status"
}
trap stop EXIT
trap "exit 143" TERM INT

sign_in() {
  curl -sf "$URL/api/v1/session" -H 'content-type: application/json' \
    -d "{\"user\": \"$MAXINE_ADMIN_USERNAME\", \"password\": \"$MAXINE_ADMIN_PASSWORD\"}"
}
for attempt in $(seq 1 150); do
  if ANSWER=$(sign_in); then break; fi
  if [ "$attempt" = 150 ] || ! kill -0 "$NODE"; then echo "the node did not start" >&2; exit 1; fi
  sleep 0.2
done
SESSION=$(printf %s "$ANSWER" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
# An API token outlives the signing keys that the run rotates.
TOKEN=$(curl -sf "$URL/api/v1/tokens" -H "authorization: Bearer $SESSION" -H 'content-type: application/json' \
  -d '{"role": "admin", "note": "schemathesis"}' | sed 's/.*"token":"\([^"]*\)".*/\1/')
curl -sf -o /dev/null -X PUT "$URL/api/v1/services/default/orders/instances/a" \
  -H 'content-type: application/json' -d '{"address": "http://127.0.0.1:9", "ttl_ms": 3600000}'

# The stream of changes never ends, so it is not for this kind of test.
"$VENV/bin/st" --config-file scripts/schemathesis.toml run "$URL/api/v1/openapi.json" \
  --header "Authorization: Bearer $TOKEN" \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --phases examples,coverage,fuzzing --max-examples "$EXAMPLES" --workers 2 --request-timeout 15 \
  --exclude-path /api/v1/watch "${seed[@]}" --continue-on-failure --suppress-health-check all --warnings off --no-color
kill -0 "$NODE"
