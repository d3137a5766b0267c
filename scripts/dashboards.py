"""The source of the Grafana dashboards in deploy/grafana. scripts/observability.sh generate writes them.

A panel has a title, a description, a unit of Grafana, queries with their legends, and the runbook to open when the
value is bad. `needs` says what a query needs to have a value, for scripts/observability.sh live:

    raft    Raft mode
    fault   an active alert
"""
from dataclasses import dataclass, field

RUNBOOKS = "docs/operations"
#: Chooses the nodes of the cluster that is shown.
S = 'job="maxine",cluster=~"$cluster"'
RATE = "$__rate_interval"


@dataclass
class Panel:
    title: str
    description: str
    unit: str
    queries: list
    runbook: str
    kind: str = "timeseries"
    needs: str = ""
    width: int = 8
    #: The highest value that is shown; percentages end at 1.
    high: float | None = None


@dataclass
class Dashboard:
    name: str
    title: str
    about: str
    panels: list = field(default_factory=list)


def by_class(metric, **labels):
    selector = "".join(f',{key}="{value}"' for key, value in labels.items())
    return f"sum by (class) (rate({metric}{{{S}{selector}}}[{RATE}]))"


def rate(metric, by="instance", selector=""):
    return f"sum by ({by}) (rate({metric}{{{S}{selector}}}[{RATE}]))"


def quantiles(metric):
    return [
        (f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{{S}}}[{RATE}])))", f"p{round(q * 100)}")
        for q in (0.5, 0.95, 0.99)
    ]


def slo_panels(slo):
    name = slo["name"]
    text = f"{slo['about']} The objective is {slo['objective']:.2%} over 30 days."
    select = f'{{{S},slo="{name}"}}'
    return [
        Panel(f"{slo['title']}: error budget left", text + " At 0 % the budget of the last 30 days is used up.", "percentunit",
              [(f"maxine:slo_budget_remaining:ratio{select}", "budget left")], slo["runbook"], kind="stat", high=1),
        Panel(f"{slo['title']}: share of failures", text, "percentunit",
              [(f"maxine:slo_failures:ratio_rate{window}{select}", f"last {window}") for window in ("5m", "1h", "6h")],
              slo["runbook"], width=16),
    ]


def conditions(kinds):
    return [(f'max by (kind) (maxine_alerts_active{{{S},kind=~"{kinds}"}})', "{{kind}}")]


def events(kinds):
    return [(f'sum by (kind) (increase(maxine_alert_events_total{{{S},kind=~"{kinds}"}}[1h]))', "{{kind}}")]


def cluster(slos):
    return Dashboard("maxine-cluster", "Maxine: cluster", "Whether the cluster works, and what is wrong.", [
        Panel("Nodes that answer", "Nodes that Prometheus can scrape, and all nodes that it knows.", "none",
              [(f"sum(up{{{S}}})", "up"), (f"count(up{{{S}}})", "known")], "replica-lost.md", kind="stat"),
        Panel("Nodes that know a leader", "0 on all nodes: writes are refused. 0 on some: they are cut off.", "none",
              [(f"sum(maxine_cluster_has_leader{{{S}}})", "nodes")], "leader-lost.md", kind="stat"),
        Panel("Failures tolerated", "How many more voters may fail before writes stop.", "none",
              [(f"max(maxine_raft_failures_tolerated{{{S}}})", "voters")], "replica-lost.md", kind="stat", needs="raft"),
        Panel("Leader", "1 for the node that leads. Gaps and changes are elections.", "none",
              [(f"maxine_cluster_is_leader{{{S}}}", "{{instance}}")], "leader-lost.md"),
        Panel("Age of the state", "How old the copy of each node can be. It grows on a node that is cut off.", "s",
              [(f"maxine_state_staleness_seconds{{{S}}}", "{{instance}}")], "partition.md"),
        Panel("Index of the state", "Nodes with a lower index are behind.", "none",
              [(f"maxine_state_index{{{S}}}", "{{instance}}")], "replica-lost.md"),
        Panel("Active conditions", "What the nodes report now, by kind. maxine alerts names the objects.", "none",
              [(f"max by (kind, severity) (maxine_alerts_active{{{S}}}) > 0", "{{kind}} {{severity}}")],
              "README.md#alerts", kind="table", needs="fault", width=12),
        Panel("Firing alerts", "Alerts of the rules in deploy/prometheus.", "none",
              [('ALERTS{alertname=~"Maxine.*",alertstate="firing"}', "{{alertname}} {{severity}} {{instance}}")],
              "README.md#alerts", kind="table", needs="fault", width=12),
        Panel("Events in the last hour", "What happened, by kind. Events have no end.", "none", events(".*"), "README.md#alerts"),
        Panel("Requests", "Responses per second, by the kind of the request.", "reqps",
              [(rate("maxine_responses_by_kind_total", "kind"), "{{kind}}")], "README.md#what-you-see"),
        Panel("Failed requests", "Responses with a status of 500 or more per second, by the kind of the request.", "reqps",
              [(rate("maxine_responses_by_kind_total", "kind", ',class="5xx"'), "{{kind}}")], "README.md#what-you-see"),
        *[panel for slo in slos for panel in slo_panels(slo)],
    ])


def discovery(slos):
    return Dashboard("maxine-discovery", "Maxine: discovery", "Look-ups: rate, failures, latency, load.", [
        Panel("Look-ups", "Look-ups per second, by the first digit of the status.", "reqps",
              [(by_class("maxine_responses_by_kind_total", kind="lookup"), "{{class}}")], "README.md#what-you-see"),
        Panel("Look-ups without an instance", "Look-ups per second of services that have no routable instance.", "reqps",
              [(rate("maxine_requests_without_instance_total", "kind", ',kind="lookup"'), "look-ups")],
              "README.md#an-instance-gets-no-traffic"),
        Panel("Share of the fast path", "Look-ups answered before the HTTP library, of all that found an instance.", "percentunit",
              [(f"sum(rate(maxine_discovery_fast_path_total{{{S}}}[{RATE}])) / sum(rate(maxine_discoveries_total{{{S}}}[{RATE}]))", "share")],
              "README.md#what-you-see", high=1),
        Panel("Latency of all requests", "Time from the head of a request to the head of its response. It has no label for the kind of the request.", "s",
              quantiles("maxine_http_request_duration_seconds"), "README.md#what-you-see"),
        Panel("Open connections", "Connections of clients, by node.", "none",
              [(f"maxine_http_connections{{{S}}}", "{{instance}}")], "README.md#too-many-requests-429"),
        Panel("Refused and stalled connections", "Connections refused because too many were open, or closed because the client did not read.", "cps",
              [(rate("maxine_http_connections_refused_total"), "refused {{instance}}"), (rate("maxine_http_connections_stalled_total"), "stalled {{instance}}")],
              "README.md#too-many-requests-429"),
        Panel("Dropped records", "Records of requests that were dropped because too many arrived. Requests themselves are not affected.", "cps",
              [(rate("maxine_telemetry_dropped_total"), "{{instance}}")], "README.md#what-you-see"),
        *[panel for slo in slos if slo["name"].startswith("discovery") for panel in slo_panels(slo)],
    ])


def proxy(slos):
    page = "README.md#calls-through-the-proxy-fail"
    return Dashboard("maxine-proxy", "Maxine: proxy", "The proxies of all nodes. The metrics have no label for services and instances: the dashboard of Maxine shows these.", [
        Panel("Requests", "Responses per second, by the first digit of the status.", "reqps",
              [(by_class("maxine_proxy_requests_total"), "{{class}}")], page),
        Panel("Requests by node", "Requests forwarded per second.", "reqps",
              [(rate("maxine_proxied_requests_total"), "{{instance}}")], page),
        Panel("Latency", "Time from a request to the head of its answer.", "s", quantiles("maxine_proxy_response_head_seconds"), page),
        Panel("Errors of the proxy", "Requests per second that the proxy answered itself, by x-maxine-error.", "reqps",
              [(rate("maxine_proxy_errors_total", "code"), "{{code}}")], page),
        Panel("Retries", "Retries per second, by the error of the failed attempt.", "reqps",
              [(rate("maxine_proxy_retries_total", "reason"), "{{reason}}")], page),
        Panel("Circuit breakers and outliers", "Changes per second.", "cps",
              [(rate("maxine_proxy_standing_changes_total", "change"), "{{change}}")], "README.md#an-instance-gets-no-traffic"),
        Panel("Hedges and mirrors", "Second requests, and copies to mirrors, per second.", "reqps",
              [(rate("maxine_proxy_hedges_total", "kind"), "hedge {{kind}}"), (rate("maxine_proxy_mirrored_total", "outcome"), "mirror {{outcome}}")], page),
        Panel("Share of the fast path", "Requests forwarded without maps of header fields, of all that were forwarded.", "percentunit",
              [(f"sum(rate(maxine_proxy_fast_path_total{{{S}}}[{RATE}])) / sum(rate(maxine_proxied_requests_total{{{S}}}[{RATE}]))", "share")], page, high=1),
        Panel("Requests without an instance", "Requests per second to services that have no routable instance.", "reqps",
              [(rate("maxine_requests_without_instance_total", "kind", ',kind="proxied"'), "requests")], "README.md#an-instance-gets-no-traffic"),
        *[panel for slo in slos if slo["name"].startswith("proxy") for panel in slo_panels(slo)],
    ])


def registry(slos):
    return Dashboard("maxine-registry", "Maxine: registry and health", "Services, instances, heartbeats and health checks.", [
        Panel("Services", "Services with at least one live instance.", "none",
              [(f"max(maxine_registered_services{{{S}}})", "services")], "README.md#many-instances-are-silent", kind="stat"),
        Panel("Live instances", "Instances that are not evicted.", "none",
              [(f"max(maxine_registered_parent_nodes{{{S}}})", "instances")], "README.md#many-instances-are-silent", kind="stat"),
        Panel("Size of the registry", "Bytes that all registrations take. The limit is 1 GiB.", "bytes",
              [(f"max(maxine_registry_bytes{{{S}}})", "registrations")], "README.md#too-many-requests-429", kind="stat"),
        Panel("Instances", "All instances, live ones, and live ones counted by their weight.", "none",
              [(f"max(maxine_registry_instances{{{S}}})", "all"), (f"max(maxine_registered_parent_nodes{{{S}}})", "live"),
               (f"max(maxine_registered_virtual_nodes{{{S}}})", "by weight")], "README.md#many-instances-are-silent"),
        Panel("Registrations and heartbeats", "Requests per second, by the first digit of the status. A batch counts as one.", "reqps",
              [(by_class("maxine_responses_by_kind_total", kind="registration"), "{{class}}")], "quorum-lost.md"),
        Panel("Expiry and panic", "1 while expiry is suspended or a service is in panic mode.", "none",
              conditions("registry.expiry_suspended|service.panic"), "service-panic.md"),
        Panel("Health checks", "Probes per second, by node.", "cps", [(rate("maxine_health_checks_total"), "{{instance}}")], "service-panic.md"),
        Panel("Failed health checks", "Probes per second that failed, by node.", "cps",
              [(rate("maxine_health_check_failures_total"), "{{instance}}")], "service-panic.md"),
        Panel("Unhealthy and evicted instances", "Instances whose last probes failed, and evictions in the last hour.", "none",
              [(f"max(maxine_unhealthy_upstreams{{{S}}})", "unhealthy"), (f"sum(increase(maxine_health_evictions_total{{{S}}}[1h]))", "evicted in 1 h")],
              "service-panic.md"),
        *[panel for slo in slos if slo["name"].startswith("write") for panel in slo_panels(slo)],
    ])


def raft(_):
    lag = f"maxine_raft_committed_index{{{S}}} - maxine_raft_applied_index{{{S}}}"
    behind = f"max by (job, cluster) (maxine_raft_committed_index{{{S}}}) - on (job, cluster) group_right maxine_raft_last_log_index{{{S}}}"
    unsnapped = f"maxine_raft_last_log_index{{{S}}} - maxine_raft_snapshot_index{{{S}}} >= 0 or maxine_raft_last_log_index{{{S}}}"

    def panel(title, about, unit, queries, runbook, **more):
        return Panel(title, about, unit, queries, runbook, needs="raft", **more)

    return Dashboard("maxine-raft", "Maxine: Raft and disk", "The replicated log of a cluster in Raft mode.", [
        panel("Voters", "Voters that can be reached, and how many are needed for writes.", "none",
              [(f"max(maxine_raft_voters_reachable{{{S}}})", "reachable"), (f"max(maxine_raft_voters_needed{{{S}}})", "needed")], "quorum-lost.md", kind="stat"),
        panel("Term", "Each election raises the term.", "none", [(f"max(maxine_raft_term{{{S}}})", "term")], "leader-lost.md", kind="stat"),
        Panel("Changes of the leader in the last hour", "How often a node became leader or stopped being it.", "none",
              [(f"sum(changes(maxine_cluster_is_leader{{{S}}}[1h]))", "changes")], "leader-lost.md", kind="stat"),
        panel("Committed entries", "Log entries per second that were committed.", "cps",
              [(f"max by (job, cluster) (deriv(maxine_raft_committed_index{{{S}}}[5m]))", "entries")], "leader-lost.md"),
        panel("Behind the log", "Committed log entries that a node does not have yet. A negative number is entries that it has and that are not committed.", "none",
              [(behind, "{{instance}}")], "replica-lost.md"),
        panel("Behind the commit", "Committed log entries that a node has not applied yet.", "none", [(lag, "{{instance}}")], "replica-lost.md"),
        panel("Entries since the last snapshot", "Log entries of a node that its last snapshot does not contain.", "none", [(unsnapped, "{{instance}}")], "disk-full.md"),
        panel("Size of the log", "Size of the log on disk.", "bytes", [(f"maxine_raft_log_bytes{{{S}}}", "{{instance}}")], "disk-full.md"),
        panel("Time of the last sync", "How long the last sync of the log to the disk took.", "s",
              [(f"maxine_raft_last_sync_seconds{{{S}}}", "{{instance}}")], "disk-full.md"),
        panel("Stalled disk", "1 while a sync takes too long.", "none", [(f"maxine_raft_disk_stalled{{{S}}}", "{{instance}}")], "disk-full.md"),
        Panel("Conditions of disks", "1 while a disk is slow or nearly full, a node has an older copy of its directory, or cannot write a snapshot.", "none",
              conditions("node.disk_.*|node.set_back|node.snapshot_failed"), "disk-full.md"),
        Panel("Events of disks in the last hour", "Stalls, failures of the log, and incomplete records that were cut off.", "none",
              events("node.stalled|store.failed|store.torn_tail_cut"), "disk-corrupt.md"),
    ])


def redis(_):
    page = "redis-lost.md"
    return Dashboard("maxine-redis", "Maxine: Redis mode", "What to watch while the state is kept in Redis. The exporter of Redis shows Redis itself.", [
        Panel("Nodes that know a leader", "All nodes lose the leader when Redis does not answer or refuses writes.", "none",
              [(f"sum(maxine_cluster_has_leader{{{S}}})", "nodes")], page, kind="stat"),
        Panel("Age of the state", "It grows on every node while Redis does not answer.", "s", [(f"maxine_state_staleness_seconds{{{S}}}", "{{instance}}")], page),
        Panel("Index of the state", "It must never fall: a lower index means that Redis lost changes.", "none", [(f"maxine_state_index{{{S}}}", "{{instance}}")], page),
        Panel("Conditions of the store", "1 while Redis does not answer or refuses writes.", "none", conditions("store.*"), page),
        Panel("Events of the store in the last hour", "Restarts, failovers, damage and losses, by kind.", "none", events("store.*"), page),
        Panel("Registrations and heartbeats", "Requests per second, by the first digit of the status. 5xx: Redis does not accept writes.", "reqps",
              [(by_class("maxine_responses_by_kind_total", kind="registration"), "{{class}}")], page),
        Panel("Look-ups", "Look-ups continue with the last state.", "reqps",
              [(by_class("maxine_responses_by_kind_total", kind="lookup"), "{{class}}")], page),
        Panel("Leader", "1 for the node that has the lease in Redis.", "none", [(f"maxine_cluster_is_leader{{{S}}}", "{{instance}}")], page),
    ])


def security(_):
    return Dashboard("maxine-security", "Maxine: security", "Sign-ins, refusals, certificates, clocks and the audit log.", [
        Panel("Sign-ins", "Successful sign-ins per second, by node.", "cps", [(rate("maxine_auth_success_total"), "{{instance}}")], "README.md#what-you-see"),
        Panel("Refused credentials", "Failed sign-ins, and requests refused with 401 or 403, per second. All nodes at once: a clock may be wrong.", "cps",
              [(rate("maxine_auth_failures_total"), "{{instance}}")], "clock-wrong.md"),
        Panel("Throttled sign-ins", "Sign-ins refused because there were too many.", "cps", [(rate("maxine_signin_throttled_total"), "{{instance}}")], "README.md#too-many-requests-429"),
        Panel("Requests refused with 4xx", "Responses per second with a status from 400 to 499, by the kind of the request.", "reqps",
              [(rate("maxine_responses_by_kind_total", "kind", ',class="4xx"'), "{{kind}}")], "README.md#too-many-requests-429"),
        Panel("Certificates and clocks", "1 while a certificate expires soon or has expired, or a clock is wrong.", "none",
              conditions("node.certificate_ends|node.clock_skew|audit.retention_waits"), "certificate-expired.md"),
        Panel("Missing audit records", "Times in the last hour at which audit records could not be written.", "none", events("audit.gap"), "audit-gap.md"),
        Panel("Audit records that left early", "Times in the last hour at which audit records left the log for lack of room.", "none", events("audit.dropped_early"), "audit-gap.md"),
        Panel("Alerts of Maxine", "Alerts raised, failed deliveries to the webhook, and conditions left out, in the last hour.", "none",
              [(f"sum(increase(maxine_alerts_total{{{S}}}[1h]))", "raised"), (f"sum(increase(maxine_alert_deliveries_failed_total{{{S}}}[1h]))", "deliveries failed"),
               (f"sum(increase(maxine_alerts_left_out_total{{{S}}}[1h]))", "left out")], "README.md#the-webhook"),
    ])


DASHBOARDS = [cluster, discovery, proxy, registry, raft, redis, security]


def sources(slos):
    return [make(slos) for make in DASHBOARDS]


def runbooks():
    """The runbooks that panels link to, apart from those of SLOs."""
    return {panel.runbook for dashboard in sources([]) for panel in dashboard.panels}


DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def as_panel(panel, number, place):
    defaults = {"unit": panel.unit, "min": 0} if panel.unit != "none" else {"unit": "none"}
    if panel.high is not None:
        defaults["max"] = panel.high
    shown = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "links": [{"title": "Runbook", "url": f"{RUNBOOKS}/{panel.runbook}", "targetBlank": True}],
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend,
             **({"instant": True, "format": "table"} if panel.kind == "table" else {})}
            for at, (expr, legend) in enumerate(panel.queries)
        ],
    }
    if panel.kind == "stat":
        shown["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
    return shown


def as_dashboard(dashboard):
    panels, x, y = [], 0, 0
    for number, panel in enumerate(dashboard.panels, 1):
        if x + panel.width > 24:
            x, y = 0, y + 8
        panels.append(as_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": 8}))
        x += panel.width
    return {
        "uid": dashboard.name,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["maxine"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            {"name": "cluster", "type": "query", "label": "Cluster", "datasource": DATASOURCE, "refresh": 2,
             "query": {"query": 'label_values(up{job="maxine"}, cluster)', "refId": "cluster"},
             "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}},
        ]},
        "links": [{"title": "Maxine", "type": "dashboards", "tags": ["maxine"], "asDropdown": True}],
        "panels": panels,
    }


def all_dashboards(slos):
    for dashboard in sources(slos):
        yield f"{dashboard.name}.json", as_dashboard(dashboard)
