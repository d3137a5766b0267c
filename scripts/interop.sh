#!/usr/bin/env bash
# Tries a node together with another server of this machine, which runs with its defaults:
#
#   scripts/interop.sh nginx      the watch stream through nginx
#   scripts/interop.sh haproxy    the watch stream and a WebSocket through HAProxy
#   scripts/interop.sh dns-haproxy    instances that HAProxy finds in DNS
#   scripts/interop.sh dns-caddy      instances that Caddy finds in DNS
#   scripts/interop.sh keycloak   sign-in and workload tokens with Keycloak
#   scripts/interop.sh consul-go      a client of Consul; also consul-python, consul-node, consul-prometheus,
#                                 consul-traefik, consul-template, consul-spring
#   scripts/interop.sh spring         applications of Spring Boot, with the starter in sdks/java/spring
#   scripts/interop.sh jaeger         export of traces to Jaeger, which is built at the first run (5 to 15 minutes)
#
# Prints what was seen, and fails if anything is wrong or slow. Everything listens on loopback and ends with
# the script. docs/reference/interoperability.md has the last results.
#
#   MAXINE_BIN   the binary (default: target/debug/maxine)
set -euo pipefail
cd "$(dirname "$0")/.."

CASE=${1:-}
BIN=${MAXINE_BIN:-target/debug/maxine}
case "$CASE" in
  nginx | haproxy | dns-haproxy | dns-caddy) ;;
  keycloak) exec python3 scripts/interop_keycloak.py ;;
  consul-go | consul-python | consul-node | consul-prometheus | consul-traefik | consul-template)
    exec scripts/interop_consul.sh "$CASE" ;;
  consul-spring) exec python3 scripts/interop_consul_spring.py ;;
  spring) exec python3 scripts/interop_spring.py ;;
  jaeger) exec python3 scripts/interop_jaeger.py ;;
  *) sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
[ -x "$BIN" ] || { echo "$BIN is not there: cargo build" >&2; exit 1; }
# Servers are not in every PATH.
PATH="$PATH:/usr/sbin:/usr/local/sbin"
PROGRAM=${CASE#dns-}
command -v "$PROGRAM" >/dev/null || { echo "$PROGRAM is not installed: apt-get install $PROGRAM" >&2; exit 1; }

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
NODE=$(free_port)
FRONT=$(free_port)
FRONTS=("defaults=$FRONT")
DNS=0
case "$CASE" in dns-*) DNS=$(free_port) ;; esac
# The checks drain instances as this user.
export MAXINE_ADMIN_USERNAME=interop MAXINE_ADMIN_PASSWORD=interop-on-loopback

"$BIN" serve --port "$NODE" --host 127.0.0.1 --dns-port "$DNS" --data-dir "$DIR/data" --log-dir "$DIR/logs" >"$DIR/node.log" 2>&1 &
PIDS+=($!)

# The least that each server runs with: an address to listen on, and one to forward to.
case "$CASE" in
  nginx)
    cat >"$DIR/nginx.conf" <<CONF
pid $DIR/nginx.pid;
error_log $DIR/nginx-error.log;
events {}
http {
  access_log off;
  client_body_temp_path $DIR/body; proxy_temp_path $DIR/proxy;
  fastcgi_temp_path $DIR/fastcgi; uwsgi_temp_path $DIR/uwsgi; scgi_temp_path $DIR/scgi;
  server {
    listen 127.0.0.1:$FRONT;
    location / { proxy_pass http://127.0.0.1:$NODE; }
  }
}
CONF
    nginx -c "$DIR/nginx.conf" -e "$DIR/nginx-error.log" -g 'daemon off;' >"$DIR/nginx.log" 2>&1 &
    PIDS+=($!)
    VERSION=$(nginx -v 2>&1 | sed 's/.*\///')
    ;;
  haproxy)
    NO_DELAY=$(free_port)
    FRONTS=("defaults+websocket=$FRONT" "http-no-delay=$NO_DELAY")
    cat >"$DIR/haproxy.cfg" <<CONF
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen maxine
  bind 127.0.0.1:$FRONT
  server node 127.0.0.1:$NODE
listen no-delay
  bind 127.0.0.1:$NO_DELAY
  option http-no-delay
  server node 127.0.0.1:$NODE
CONF
    haproxy -db -f "$DIR/haproxy.cfg" >"$DIR/haproxy.log" 2>&1 &
    PIDS+=($!)
    VERSION=$(haproxy -v | sed -n '1s/HAProxy version \([^ ]*\).*/\1/p')
    ;;
  dns-haproxy)
    cat >"$DIR/haproxy.cfg" <<CONF
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
resolvers maxine
  nameserver local 127.0.0.1:$DNS
  accepted_payload_size 8192
  timeout resolve 1s
  hold valid 1s
frontend web
  bind 127.0.0.1:$FRONT
  default_backend web
backend web
  balance roundrobin
  server-template web 20 _web._tcp.service.maxine resolvers maxine init-addr none
CONF
    haproxy -db -f "$DIR/haproxy.cfg" >"$DIR/haproxy.log" 2>&1 &
    PIDS+=($!)
    VERSION=$(haproxy -v | sed -n '1s/HAProxy version \([^ ]*\).*/\1/p')
    ;;
  dns-caddy)
    cat >"$DIR/Caddyfile" <<CONF
{
  admin off
}
http://127.0.0.1:$FRONT {
  reverse_proxy {
    dynamic srv _web._tcp.service.maxine {
      refresh 1s
      resolvers 127.0.0.1:$DNS
    }
    transport http {
      resolvers 127.0.0.1:$DNS
    }
  }
}
CONF
    HOME="$DIR" caddy run --config "$DIR/Caddyfile" --adapter caddyfile >"$DIR/caddy.log" 2>&1 &
    PIDS+=($!)
    VERSION=$(caddy version | sed 's/ .*//')
    ;;
esac

if [ "$DNS" != 0 ]; then
  for attempt in $(seq 1 150); do
    if curl -sf -o /dev/null "http://127.0.0.1:$NODE/api/actuator/health"; then break; fi
    if [ "$attempt" = 150 ]; then echo "the node did not answer" >&2; exit 1; fi
    sleep 0.2
  done
  echo "$PROGRAM $VERSION asks $("$BIN" --version), $(date -u +%F)"
  python3 scripts/interop_dns.py "$NODE" "$FRONT"
  exit
fi

for attempt in $(seq 1 150); do
  if curl -sf -o /dev/null "http://127.0.0.1:$FRONT/api/actuator/health"; then break; fi
  if [ "$attempt" = 150 ]; then echo "the node did not answer through $CASE" >&2; exit 1; fi
  sleep 0.2
done
echo "$CASE $VERSION in front of $("$BIN" --version), $(date -u +%F)"
python3 scripts/interop.py "$NODE" "${FRONTS[@]}"
