#!/usr/bin/env bash
# Starts a cluster with an incident to practise on: an instance that fails all calls, a slow version, a bad policy and a
# dead node, with traffic. It needs a build of the server and of the dashboard, and runs until Ctrl+C.
#   scripts/incident.sh [MINUTES]    sets the bad policy MINUTES before the other faults; by default 0
set -euo pipefail
cd "$(dirname "$0")/../ui"
exec node e2e/incident.mjs "$@"
