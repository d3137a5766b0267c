#!/usr/bin/env bash
# Installs Maxine as a user would, and checks what happens then:
#
#   scripts/install-check.sh deb         the deb in a Debian that systemd runs: installed, started, upgraded, removed, purged
#   scripts/install-check.sh rpm         the same with the rpm, in a Debian that has rpm, and rpmlint
#   scripts/install-check.sh container   three containers form a cluster; one is killed, one is upgraded
#   scripts/install-check.sh compose     deploy/compose/compose.yaml, started and stopped
#
# Needs root, and these packages of Debian: mmdebstrap systemd-container lintian rpm rpmlint podman buildah runc
# podman-compose docker-compose. Nothing leaves this machine, and all that it starts ends with it.
# docs/reference/interoperability.md has the last results.
#
#   MAXINE_BIN    the program (default: target/release/maxine)
#   MAXINE_BASE   a tar archive of a Debian like this one, with systemd, dbus, ca-certificates, procps, man-db and rpm, to save the minutes of making one
set -euo pipefail
cd "$(dirname "$0")/.."

CASE=${1:-}
BIN=$(realpath "${MAXINE_BIN:-target/release/maxine}")
case "$CASE" in
  deb | rpm | container | compose) ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
[ -x "$BIN" ] || { echo "$BIN is not there: cargo build --release --locked" >&2; exit 1; }

DIR=$(mktemp -d)
CLEAN=()
stop() {
  status=$?
  for action in "${CLEAN[@]}"; do $action >/dev/null 2>&1 || true; done
  if [ "$status" -ne 0 ]; then
    echo "FAILED: $CASE" >&2
    tail -n 40 "$DIR"/*.log >&2 || true
  fi
  rm -rf "$DIR"
  exit "$status"
}
trap stop EXIT
trap "exit 143" TERM INT

step() { echo "- $*"; }
die() { echo "not as expected: $*" >&2; exit 1; }
# Waits until the command succeeds.
until_ok() {
  for _ in $(seq 1 120); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.5
  done
  "$@" || true
  die "$*"
}
equals() { [ "$1" = "$2" ] || die "$3 is '$1', expected '$2'"; }

base() {
  if [ -n "${MAXINE_BASE:-}" ]; then cp "$MAXINE_BASE" "$DIR/base.tar"; return; fi
  local components=main suite
  # The same distribution as here, because the program was linked with its C library.
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  if grep -qx ID=ubuntu /etc/os-release; then components=main,universe; fi
  mmdebstrap --quiet --variant=minbase --components="$components" \
    --include=systemd,systemd-sysv,dbus,ca-certificates,procps,rpm,man-db "$suite" "$DIR/base.tar"
}

# --- A Debian that systemd runs, without a network.

boot() {
  base
  mkdir "$DIR/tree"
  tar -C "$DIR/tree" -xf "$DIR/base.tar"
  # /dev/null as standard input: the console of the container must not read that of this script.
  systemd-nspawn --register=no --keep-unit --quiet --directory "$DIR/tree" --private-network --boot \
    </dev/null >"$DIR/boot.log" 2>&1 &
  NSPAWN=$!
  CLEAN+=(halt)
  until_ok leader
  LEADER=$(leader)
  until_ok running
}
leader() { pgrep --parent "$NSPAWN"; }
running() { inside systemctl is-system-running --wait; }
halt() {
  kill -TERM "$NSPAWN"
  wait "$NSPAWN"
}
inside() {
  nsenter --target "$LEADER" --mount --uts --ipc --net --pid \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"
}
property() { inside systemctl show --property "$1" --value maxine.service; }
main_pid() { property MainPID; }
ready() { inside maxine health --ready --timeout-ms 2000; }
restarts() { [ "$(property NRestarts)" = "$1" ]; }
mode() { inside stat --format '%U:%G %a' "$1"; }

# The node that runs is what the unit promises.
check_running() {
  until_ok ready
  equals "$(property ActiveState)" active "the state of the unit"
  case "$(property StatusText)" in "serves HTTP on "*) ;; *) die "no status text: sd_notify does not work" ;; esac
  equals "$(mode /var/lib/maxine)" "maxine:maxine 700" "the data directory"
  equals "$(mode /etc/maxine)" "root:maxine 750" "the directory of the configuration"
  equals "$(mode /etc/maxine/maxine.toml)" "root:maxine 640" "the configuration"
  local status
  status=$(inside cat "/proc/$(main_pid)/status")
  for line in 'CapEff:	0000000000000000' 'CapBnd:	0000000000000000' 'NoNewPrivs:	1' 'Seccomp:	2'; do
    grep -qx "$line" <<<"$status" || die "the process lacks: $line"
  done
}

# What systemd does when the node hangs, dies or has a wrong setting.
check_supervision() {
  local before
  # The unit's own time would make this slow.
  inside mkdir -p /run/systemd/system/maxine.service.d
  printf '[Service]\nWatchdogSec=6s\n' | inside tee /run/systemd/system/maxine.service.d/quick.conf >/dev/null
  inside systemctl daemon-reload
  inside systemctl restart maxine
  until_ok ready
  before=$(main_pid)
  sleep 15
  equals "$(main_pid)" "$before" "the process, after more than two periods of the watchdog,"
  step "the node feeds a watchdog of 6 s"
  inside kill -STOP "$before"
  until_ok restarts 1
  until_ok ready
  step "a node that hangs is restarted by the watchdog: $(inside journalctl -q -o cat -u maxine --grep 'atchdog timeout' | tail -n 1)"
  inside kill -KILL "$(main_pid)"
  until_ok restarts 2
  until_ok ready
  step "a node that is killed is restarted"
  inside rm -r /run/systemd/system/maxine.service.d
  inside systemctl daemon-reload
  inside cp -p /etc/maxine/maxine.toml /root/maxine.toml
  printf '[http]\nport = "none"\n' | inside tee /etc/maxine/maxine.toml >/dev/null
  inside systemctl restart maxine 2>/dev/null && die "a wrong setting was accepted"
  sleep 5
  equals "$(property ActiveState) $(property NRestarts)" "failed 0" "a unit with a wrong setting"
  inside cp -p /root/maxine.toml /etc/maxine/maxine.toml
  inside systemctl restart maxine
  until_ok ready
  step "a wrong setting is not tried again and again: $(inside journalctl -q -o cat -u maxine | grep 'http.port' | tail -n 1)"
}

register() { inside maxine register orders "$1" --address "http://10.0.0.1:80" --permanent >/dev/null; }
registered() { inside maxine resolve orders >/dev/null; }

first_use() {
  inside maxine login --password-file /var/lib/maxine/initial-password >/dev/null
  equals "$(mode /var/lib/maxine/initial-password)" "maxine:maxine 600" "the file of the password"
  inside maxine services list >/dev/null
  register first
  registered
  step "the administrator signs in with the password of the first start, and an instance is registered"
}

documents() {
  inside man --pager=cat maxine-serve | grep -q MAXINE_DATA_DIR || die "no manual page"
  inside test -s /usr/share/bash-completion/completions/maxine
  inside test -s /usr/share/fish/vendor_completions.d/maxine.fish
}

packages() {
  scripts/package.sh --binary "$BIN" --out "$DIR/packages" --release 1 "$1" >"$DIR/package-1.log"
  scripts/package.sh --binary "$BIN" --out "$DIR/packages" --release 2 "$1" >"$DIR/package-2.log"
  scripts/package.sh --binary "$BIN" --out "$DIR/again" --release 2 "$1" >"$DIR/package-3.log"
  local last
  last=$(basename "$DIR"/again/*)
  cmp "$DIR/packages/$last" "$DIR/again/$last" || die "two runs gave different packages"
  step "$(stat --format '%s bytes' "$DIR/again/$last"), the same bytes in two runs"
}

try_deb() {
  packages deb
  # What lintian would also find in any package that is not a part of Debian.
  lintian --fail-on error "$DIR"/again/*.deb || die "lintian found errors"
  step "lintian $(dpkg-query -f '${Version}' -W lintian) finds no error"
  boot
  cp "$DIR"/packages/*.deb "$DIR/tree/root/"

  inside sh -c 'dpkg -i /root/maxine_*-1_*.deb' >"$DIR/install.log" 2>&1
  check_running
  step "installed and started: $(inside maxine --version | head -n 1), systemd $(inside systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')"
  step "$(inside systemd-analyze security maxine.service | tail -n 1 | sed 's/.*Overall/overall/; s/ [^ ]*$//')"
  documents
  first_use
  check_supervision

  echo '# A line of the administrator.' | inside tee -a /etc/maxine/maxine.toml >/dev/null
  local before
  before=$(main_pid)
  inside sh -c 'dpkg -i /root/maxine_*-2_*.deb' >"$DIR/upgrade.log" 2>&1
  check_running
  [ "$(main_pid)" != "$before" ] || die "the upgrade did not restart the node"
  registered
  inside grep -q 'line of the administrator' /etc/maxine/maxine.toml
  step "upgraded: restarted, with its state and the changed configuration"

  inside systemctl disable --now maxine >/dev/null 2>&1
  inside sh -c 'dpkg -i /root/maxine_*-2_*.deb' >"$DIR/disabled.log" 2>&1
  equals "$(property UnitFileState)" disabled "a unit that was disabled, after an upgrade,"
  inside systemctl enable --now maxine >/dev/null 2>&1
  until_ok ready

  inside dpkg -r maxine >"$DIR/remove.log" 2>&1
  inside pgrep -x maxine && die "the node still runs"
  inside test -e /var/lib/maxine/initial-password || die "the data is gone"
  inside test -e /etc/maxine/maxine.toml || die "the configuration is gone"
  inside sh -c 'dpkg -i /root/maxine_*-2_*.deb' >"$DIR/reinstall.log" 2>&1
  check_running
  registered
  step "removed, with data and configuration kept, and installed again with the same state"

  inside dpkg -P maxine >"$DIR/purge.log" 2>&1
  inside test ! -e /var/lib/maxine || die "the data stayed"
  inside test ! -e /etc/maxine || die "/etc/maxine stayed"
  equals "$(inside find /etc/systemd/system /usr/bin /usr/lib/systemd /usr/share -name '*maxine*')" "" "what purging left"
  step "purged: nothing is left but the user"
}

try_rpm() {
  packages rpm
  rpmlint --config deploy/packages/rpmlint.toml "$DIR"/again/*.rpm >"$DIR/rpmlint.log" 2>&1 || true
  if grep ' E: ' "$DIR/rpmlint.log"; then die "rpmlint found errors"; fi
  step "rpmlint $(dpkg-query -f '${Version}' -W rpmlint) finds no error"
  boot
  cp "$DIR"/packages/*.rpm "$DIR/tree/root/"
  # The dependencies are names of another distribution.
  inside sh -c 'rpm --install --nodeps /root/maxine-*-1.*.rpm' >"$DIR/install.log" 2>&1
  equals "$(property ActiveState)" inactive "a unit that an rpm installed"
  inside systemctl enable --now maxine >/dev/null 2>&1
  check_running
  inside sh -c 'rpm --verify --nodeps maxine'
  first_use
  step "installed; started by 'systemctl enable --now maxine'"
  local before
  before=$(main_pid)
  echo '# A line of the administrator.' | inside tee -a /etc/maxine/maxine.toml >/dev/null
  inside sh -c 'rpm --upgrade --nodeps /root/maxine-*-2.*.rpm' >"$DIR/upgrade.log" 2>&1
  check_running
  [ "$(main_pid)" != "$before" ] || die "the upgrade did not restart the node"
  registered
  inside grep -q 'line of the administrator' /etc/maxine/maxine.toml
  step "upgraded: restarted, with its state and the changed configuration"
  inside rpm --erase --nodeps maxine >"$DIR/remove.log" 2>&1
  inside pgrep -x maxine && die "the node still runs"
  inside test -e /var/lib/maxine/initial-password || die "the data is gone"
  step "removed, with the data kept"
}

# --- Containers.

# Machines differ in what they let root do. Limits above those of this process need a capability, and crun does not know
# two versions of control groups at once.
engine() {
  local processes
  # Podman lowers its own limit to 32768.
  processes=$(($(ulimit -Hu) < 32768 ? $(ulimit -Hu) : 32768))
  {
    echo '[containers]'
    echo "default_ulimits = [\"nofile=$(ulimit -Hn):$(ulimit -Hn)\", \"nproc=$processes:$processes\"]"
    echo '[engine]'
    echo 'events_logger = "file"'
    echo 'cgroup_manager = "cgroupfs"'
    [ ! -d /sys/fs/cgroup/unified ] || echo 'runtime = "runc"'
  } >"$DIR/containers.conf"
  export CONTAINERS_CONF=$DIR/containers.conf
}

IMAGE=localhost/maxine-install-check
NAME=maxine-install-check

image() {
  base
  scripts/container.sh --binary "$BIN" --base "$DIR/base.tar" "$IMAGE:1" >"$DIR/image.log" 2>&1
  CLEAN+=("podman rmi -f $IMAGE:1 $IMAGE:2")
  podman tag "$IMAGE:1" "$IMAGE:2"
  local size
  size=$(podman image inspect --format '{{.Size}}' "$IMAGE:1")
  [ "$size" -lt 80000000 ] || die "the image has $size bytes"
  step "the image has $size bytes, $(podman image inspect --format '{{len .RootFS.Layers}}' "$IMAGE:1") layer, user $(podman image inspect --format '{{.Config.User}}' "$IMAGE:1")"
  podman image inspect --format '{{.Labels}}' "$IMAGE:1" | grep -q org.opencontainers.image.revision || die "no labels"
}

MEMBERS=1@$NAME-1:7700@http://$NAME-1:8080,2@$NAME-2:7700@http://$NAME-2:8080,3@$NAME-3:7700@http://$NAME-3:8080
# Starts node $1 from the image with tag $2.
start_node() {
  podman run --detach --name "$NAME-$1" --network "$NAME" --read-only --cap-drop all \
    --security-opt no-new-privileges --volume "$NAME-data-$1:/var/lib/maxine" --volume "$NAME-tls:/etc/maxine/tls:ro" \
    --env MAXINE_NODE_ID="$1" --env MAXINE_REGISTRY_STATE_MODE=raft --env MAXINE_RAFT_LISTEN=0.0.0.0:7700 \
    --env MAXINE_RAFT_ADVERTISE="$NAME-$1:7700" --env MAXINE_HTTP_ADVERTISE="http://$NAME-$1:8080" \
    --env MAXINE_RAFT_MEMBERS="$MEMBERS" --env MAXINE_RAFT_TLS_CA=/etc/maxine/tls/ca.pem \
    --env MAXINE_RAFT_TLS_CERT="/etc/maxine/tls/node-$1.pem" --env MAXINE_RAFT_TLS_KEY="/etc/maxine/tls/node-$1-key.pem" \
    --env MAXINE_ADMIN_USERNAME=admin --env MAXINE_ADMIN_PASSWORD=correct-horse-battery-staple \
    --env MAXINE_REGISTRATION_ACCESS=open --env MAXINE_DISCOVERY_ACCESS=open --env MAXINE_ALLOW_OPEN=true \
    "$IMAGE:$2" >/dev/null 2>>"$DIR/podman.log"
}
on() { podman exec "$NAME-$1" /usr/bin/maxine "${@:2}"; }
node_ready() { on "$1" health --ready --timeout-ms 2000; }
# The number of the leader, as node $1 knows it.
current_leader() { on "$1" health --ready --output json | sed -n 's/.*"leader":"node-\([0-9]\)".*/\1/p'; }
remove_containers() {
  podman rm --force --time 0 "$NAME-1" "$NAME-2" "$NAME-3"
  podman volume rm --force "$NAME-data-1" "$NAME-data-2" "$NAME-data-3" "$NAME-tls"
  podman network rm --force "$NAME"
}

try_container() {
  engine
  image
  CLEAN=(remove_containers "${CLEAN[@]}")
  # No way out of this machine.
  podman network create --internal "$NAME" >/dev/null 2>>"$DIR/podman.log"
  podman run --rm --volume "$NAME-tls:/var/lib/maxine" "$IMAGE:1" cluster init-tls --nodes 1,2,3 /var/lib/maxine \
    >"$DIR/tls.log" 2>&1
  for node in 1 2 3; do start_node $node 1; done
  for node in 1 2 3; do until_ok node_ready $node; done
  step "three containers form a cluster: podman $(podman --version | sed 's/.* //'), $(podman info --format '{{.Host.OCIRuntime.Name}}'), root read-only, no capabilities, TLS between the nodes"
  podman healthcheck run "$NAME-1" >/dev/null || die "the health check of the image"
  on 1 register orders first --address http://10.0.0.1:80 --permanent >/dev/null
  until_ok on 3 resolve orders

  local leader other
  leader=$(current_leader 1)
  other=$((leader % 3 + 1))
  podman kill --signal KILL "$NAME-$leader" >/dev/null 2>>"$DIR/podman.log"
  until_ok on "$other" register orders second --address http://10.0.0.2:80 --permanent
  step "the leader (node $leader) was killed: node $other accepts writes"
  podman start "$NAME-$leader" >/dev/null 2>>"$DIR/podman.log"
  until_ok node_ready "$leader"
  step "the killed node came back"

  leader=$(current_leader 1)
  podman stop --time 45 "$NAME-$leader" >/dev/null 2>>"$DIR/podman.log"
  equals "$(podman inspect --format '{{.State.ExitCode}}' "$NAME-$leader")" 0 "the exit code after SIGTERM"
  podman logs "$NAME-$leader" 2>&1 | grep -q 'the node has stopped' || die "the node did not stop by itself"
  podman logs "$NAME-$leader" 2>&1 | grep -q 'leadership could not be transferred' && die "leadership was not transferred"
  podman rm "$NAME-$leader" >/dev/null 2>>"$DIR/podman.log"
  start_node "$leader" 2
  until_ok node_ready "$leader"
  equals "$(podman inspect --format '{{.ImageName}}' "$NAME-$leader")" "$IMAGE:2" "the image of the node"
  on "$leader" resolve orders >/dev/null
  step "the leader (node $leader) was stopped by SIGTERM, gave its leadership away, and came back from another image with its state"
}

# Signs in from outside with the password that the first start has logged.
signs_in() {
  for node in 1 2 3; do podman logs "${NAME}_node-${node}_1" 2>&1; done | sed -n 's/.*(shown this once) //p' >"$DIR/password"
  MAXINE_SESSION_FILE=$DIR/session "$BIN" login --server http://127.0.0.1:8081 --password-file "$DIR/password"
}
down() {
  podman-compose -p "$NAME" -f deploy/compose/compose.yaml down -v
  podman network rm --force "${NAME}_default"
}
via_proxy() { curl -sf "http://127.0.0.1:808$1/api/maxine/serviceops/proxy/$2/hello" | grep -q 'sample service'; }

try_compose() {
  docker-compose -f deploy/compose/compose.yaml config --quiet
  step "docker-compose $(docker-compose version --short) accepts the file"
  engine
  image
  export MAXINE_IMAGE=$IMAGE:1
  CLEAN=(down "${CLEAN[@]}")
  podman-compose -p "$NAME" -f deploy/compose/compose.yaml up -d >"$DIR/compose.log" 2>&1
  for node in 0 1 2; do
    until_ok via_proxy $node orders
    until_ok via_proxy $node billing
  done
  step "podman-compose $(dpkg-query -f '${Version}' -W podman-compose): each of the three nodes forwards to both sample services"
  until_ok signs_in
  step "the administrator signs in from outside"
}

main() {
  echo "$CASE: $("$BIN" --version | head -n 1), $(. /etc/os-release && echo "$PRETTY_NAME"), $(date -u +%F)"
  "try_$CASE"
  echo "done"
}
# The shell has read the whole file before it begins.
main
exit
