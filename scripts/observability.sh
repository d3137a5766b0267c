#!/usr/bin/env bash
# Checks the alert rules, dashboards and configurations in deploy/.
#
#   scripts/observability.sh generate   writes the generated files from their sources
#   scripts/observability.sh check      fails if a generated file differs from its source, if promtool or amtool finds a
#                                       fault, or if a rule fires or does not fire as its tests say
#   scripts/observability.sh live       runs clusters, Prometheus, Alertmanager and Jaeger, breaks something, and looks at
#                                       every panel, alert and target; some minutes, and at the first run 5 to 15
#                                       minutes to build Jaeger
#
#   MAXINE_BIN   the binary for live (default: target/debug/maxine)
#   JAEGER_BIN   Jaeger for live (default: scripts/jaeger.sh builds it)
set -euo pipefail
cd "$(dirname "$0")/.."
# Servers are not in every PATH.
PATH="$PATH:/usr/sbin:/usr/local/sbin"

need() {
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed: scripts/install-tools.sh" >&2; exit 1; }
  done
}

case "${1:-}" in
  generate)
    python3 scripts/observability.py generate
    ;;
  check)
    need promtool amtool
    python3 scripts/observability.py check
    amtool check-config deploy/alertmanager/alertmanager.yml
    # The queries of the panels, in the form of rules: this finds faults of their syntax.
    queries=$(mktemp)
    trap 'rm -f "$queries"' EXIT
    python3 scripts/observability.py queries >"$queries"
    promtool check rules --lint=none "$queries"
    cd deploy/prometheus
    promtool check config --lint=all --lint-fatal --syntax-only prometheus.yml
    promtool check rules --lint=all --lint-fatal rules/*.yml
    promtool test rules tests/*.yml
    ;;
  live)
    need prometheus promtool prometheus-alertmanager
    jaeger=$(scripts/jaeger.sh)
    exec python3 scripts/observability_live.py "${MAXINE_BIN:-target/debug/maxine}" "$jaeger"
    ;;
  *)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
