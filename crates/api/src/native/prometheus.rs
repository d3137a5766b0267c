//! The registered instances as scrape targets of Prometheus (`http_sd_configs`).
//!
//! Prometheus asks for the whole list each time, takes only 200 with `application/json`, and keeps its last
//! list otherwise. So this list has no pages, and one that is too long is refused as a whole.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Params;
use super::fresh::{Fresh, Freshness};
use crate::lists::Listing;
use crate::problem::{Problem, ProblemKind};
use crate::reserved::is_reserved;
use maxine_state::limits::{TAG_LEN_MAX, check_text};
use maxine_state::{
    AddressParts, InTraffic, Instance, Liveness, Name, Registration, Scheme, ServiceKey,
    ServiceState,
};

/// Maximum number of targets in one answer.
const TARGETS_MAX: usize = 50_000;
/// Maximum length of all labels of one answer, in bytes.
const LABELS_LEN_MAX: usize = 64 << 20;
/// An instance whose metadata has this entry with the value `false` is not listed.
const SCRAPE: &str = "prometheus.scrape";
/// The metadata entry with the path of the metrics.
const PATH: &str = "prometheus.path";
/// The metadata entry with the port of the metrics.
const PORT: &str = "prometheus.port";
/// The metadata entry with the scheme of the metrics.
const SCHEME: &str = "prometheus.scheme";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListTargets {
    /// Only this namespace.
    namespace: Option<String>,
    /// Only services with this name.
    #[param(max_length = 255)]
    service: Option<String>,
    /// Only instances with this tag.
    #[param(max_length = 1024)]
    tag: Option<String>,
}

/// One instance as Prometheus reads it.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct TargetGroup {
    /// Host and port of the instance's metrics.
    targets: [String; 1],
    /// Its labels. Those that begin with `__` are for relabelling, and Prometheus removes them afterwards.
    labels: BTreeMap<String, String>,
}

/// Lists the registered instances as scrape targets for Prometheus.
///
/// The whole list, for `http_sd_configs`. Instances that are unhealthy, evicted or drained are listed, with a
/// label that says so. Instances with the metadata entry `prometheus.scrape` = `false` are left out.
#[utoipa::path(
    get, path = "/api/v1/prometheus/targets", tag = "discovery", operation_id = "listPrometheusTargets",
    params(ListTargets, Freshness), responses((status = 200, body = Vec<TargetGroup>)),
)]
pub(super) async fn list_targets(
    fresh: Fresh,
    Params(query): Params<ListTargets>,
    listing: Listing,
) -> Result<Response, Problem> {
    let namespace = query.namespace.as_deref().map(Name::parse_namespace).transpose()?;
    let service = query.service.as_deref().map(|name| Name::parse("service", name)).transpose()?;
    query.tag.as_deref().map(|tag| check_text("tag", tag, 1, TAG_LEN_MAX)).transpose()?;
    let tag = query.tag.as_deref();
    let is_wanted = |registration: &Registration| {
        tag.is_none_or(|tag| registration.tags.iter().any(|own| **own == *tag))
            && entry(registration, SCRAPE) != Some("false")
    };
    let (mut groups, mut labels_len) = (Vec::new(), 0);
    for (key, service_state) in fresh.state().services() {
        let matches = namespace.as_ref().is_none_or(|name| key.namespace == *name)
            && service.as_ref().is_none_or(|name| key.service == *name);
        if !matches {
            continue;
        }
        let in_traffic = service_state.in_traffic();
        let wanted = service_state.instances.values();
        for instance in wanted.filter(|instance| is_wanted(&instance.registration)) {
            if groups.len() == TARGETS_MAX {
                return Err(too_many());
            }
            let group = TargetGroup::new(key, service_state, &in_traffic, instance);
            labels_len +=
                group.labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            if labels_len > LABELS_LEN_MAX {
                return Err(too_many());
            }
            groups.push(group);
        }
    }
    Ok(listing.answer(fresh.json(groups)))
}

fn too_many() -> Problem {
    let detail = format!(
        "there are more than {TARGETS_MAX} targets, or their labels have more than {LABELS_LEN_MAX} bytes: ask for a \
         namespace, a service or a tag"
    );
    Problem::new(ProblemKind::LimitExceeded, detail)
}

fn entry<'a>(registration: &'a Registration, wanted: &str) -> Option<&'a str> {
    let mut entries = registration.metadata.iter();
    entries.find(|(key, _)| key.as_str() == wanted).map(|(_, value)| &**value)
}

impl TargetGroup {
    fn new(
        key: &ServiceKey,
        service: &ServiceState,
        in_traffic: &InTraffic<'_>,
        instance: &Instance,
    ) -> Self {
        let registration = &instance.registration;
        let parts = registration.address.parts();
        let mut labels = BTreeMap::new();
        // To Prometheus an empty label is the same as none.
        let mut put = |name: &str, value: &str| {
            if !value.is_empty() {
                labels.insert(name.to_owned(), value.to_owned());
            }
        };
        put("__meta_maxine_namespace", key.namespace.as_str());
        put("__meta_maxine_service", key.service.as_str());
        put("__meta_maxine_instance", registration.id.as_str());
        put("__meta_maxine_address", registration.address.as_str());
        put("__meta_maxine_base_path", parts.base_path);
        put("__meta_maxine_weight", &registration.weight.to_string());
        let named = [
            ("__meta_maxine_zone", &registration.zone),
            ("__meta_maxine_version", &registration.version),
            ("__meta_maxine_node", &registration.node),
        ];
        for (name, value) in named {
            put(name, value.as_ref().map_or("", Name::as_str));
        }
        let health = match instance.health().liveness {
            Liveness::Evicted => "evicted",
            Liveness::Alive if instance.is_healthy() => "healthy",
            Liveness::Alive => "unhealthy",
        };
        put("__meta_maxine_health", health);
        put("__meta_maxine_routable", text(in_traffic.has(instance)));
        put("__meta_maxine_drained", text(!service.is_undrained(instance)));
        // Each tag has a comma on both sides, so that an expression can match a whole tag.
        let tags: String = registration.tags.iter().map(|tag| format!("{tag},")).collect();
        put("__meta_maxine_tags", &if tags.is_empty() { tags } else { format!(",{tags}") });
        put("__meta_maxine_scheme", parts.scheme.as_str());
        put("__scheme__", scheme(registration, &parts).unwrap_or_default());
        if let Some(path) = entry(registration, PATH).filter(|path| is_path(path)) {
            put("__metrics_path__", path);
        }
        let is_shown =
            |(key, value): &&(Name, Box<str>)| !value.is_empty() && !is_reserved(key.as_str());
        for (key, value) in registration.metadata.iter().filter(is_shown) {
            let name = format!("__meta_maxine_metadata_{}", label_name(key.as_str()));
            // The entries are sorted by key. The first of several with one label is kept.
            labels.entry(name).or_insert_with(|| value.as_ref().to_owned());
        }
        Self { targets: [host_and_port(registration, &parts)], labels }
    }
}

fn text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// The scheme of the metrics: that of the metadata if it is valid, else `https` if the address has it. If it is
/// `None`, the setting of the job in Prometheus decides: an instance that does not speak HTTP has the scheme
/// `http` too.
fn scheme<'a>(registration: &'a Registration, parts: &AddressParts<'_>) -> Option<&'a str> {
    let own = entry(registration, SCHEME).filter(|scheme| matches!(*scheme, "http" | "https"));
    own.or_else(|| (parts.scheme == Scheme::Https).then_some(parts.scheme.as_str()))
}

/// Where the metrics are: the port is that of the metadata if it is valid, else that of the address.
fn host_and_port(registration: &Registration, parts: &AddressParts<'_>) -> String {
    let own = entry(registration, PORT).and_then(|port| port.parse::<u16>().ok());
    let port = own.filter(|port| *port > 0).unwrap_or_else(|| parts.http_port());
    match parts.host.contains(':') {
        true => format!("[{}]:{port}", parts.host),
        false => format!("{}:{port}", parts.host),
    }
}

/// Whether a text can be a metrics path. Prometheus takes a query from other labels, not from the path.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?')
}

/// The end of a label's name for a metadata key: each other character than an ASCII letter, a digit or an
/// underscore becomes an underscore.
fn label_name(key: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    key.chars().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::Address;

    fn registration(address: &str, metadata: &[(&str, &str)]) -> Registration {
        let address = Address::parse(address).unwrap();
        let entry = |(key, value): &(&str, &str)| (Name::trusted(key), Box::from(*value));
        let metadata = metadata.iter().map(entry).collect();
        Registration { metadata, ..Registration::new(Name::trusted("a"), address, 5_000) }
            .normalised()
    }

    fn shown(address: &str, metadata: &[(&str, &str)]) -> (Option<String>, String) {
        let registration = registration(address, metadata);
        let parts = registration.address.parts();
        let scheme = scheme(&registration, &parts).map(str::to_owned);
        (scheme, host_and_port(&registration, &parts))
    }

    #[test]
    fn a_target_always_has_a_valid_port_and_scheme() {
        for (address, metadata, scheme, target) in [
            ("http://10.0.0.1:8080/api", &[][..], None, "10.0.0.1:8080"),
            ("http://orders.internal", &[], None, "orders.internal:80"),
            ("https://10.0.0.1", &[], Some("https"), "10.0.0.1:443"),
            ("http://[2001:db8::1]:81", &[], None, "[2001:db8::1]:81"),
            (
                "https://10.0.0.1",
                &[(PORT, "9100"), (SCHEME, "http")],
                Some("http"),
                "10.0.0.1:9100",
            ),
            ("http://10.0.0.1", &[(PORT, "0"), (SCHEME, "ftp")], None, "10.0.0.1:80"),
            ("http://10.0.0.1", &[(PORT, "65536")], None, "10.0.0.1:80"),
            ("http://10.0.0.1", &[(PORT, "80/metrics")], None, "10.0.0.1:80"),
        ] {
            let scheme = scheme.map(str::to_owned);
            assert_eq!(shown(address, metadata), (scheme, target.into()), "{address}");
        }
    }

    #[test]
    fn a_path_is_absolute_and_has_no_query() {
        assert!(is_path("/metrics") && is_path("/a/b%20c"));
        assert!(!is_path("metrics") && !is_path("/a?b") && !is_path("/a b") && !is_path(""));
    }

    #[test]
    fn a_label_has_only_characters_that_prometheus_takes() {
        assert_eq!(label_name("owner-team.name"), "owner_team_name");
        assert_eq!(label_name("größe"), "gr__e");
    }
}
