//! Converts a registration of an existing client to the registry's form.

use serde_json::{Map, Value};

use super::NAMESPACE;
use super::json::text;
use maxine_state::{
    Address, LimitExceeded, Name, ProbeKind, ProbeSpec, Registration, ServiceKey, limits,
};

/// The text that existing clients expect for a missing field and for a weight above 10.
const INVALID: &str = "Invalid or missing -> hostName, nodeName, serviceName or weight (Maximum allowed size of weight is 10 (One server can maximum be 10x more powerful than others)";
/// Maximum weight in this API.
const WEIGHT_MAX: u64 = 10;
/// How much longer a lease is than the `timeOut` that its owner sent, in milliseconds.
const LEASE_EXTRA_MS: u64 = 500;
/// Maximum `timeOut`, in seconds.
const TIME_OUT_MAX_S: u64 = (limits::TTL_MS_MAX - LEASE_EXTRA_MS) / 1_000;

/// The registration in a request.
pub(super) fn read(
    body: &Map<String, Value>,
    default_time_out_s: u64,
) -> Result<(ServiceKey, Registration), String> {
    let required = |field| text(body, field).ok_or_else(|| INVALID.to_owned());
    let (host_name, node_name) = (required("hostName")?, required("nodeName")?);
    let service_name = required("serviceName")?;
    let weight = positive_integer(body.get("weight")).unwrap_or(1);
    if weight > WEIGHT_MAX {
        return Err(INVALID.into());
    }
    let time_out_s = positive_integer(body.get("timeOut"))
        .unwrap_or_else(|| default_time_out_s.min(TIME_OUT_MAX_S));
    if time_out_s > TIME_OUT_MAX_S {
        return Err(format!("timeOut must be at most {TIME_OUT_MAX_S} seconds"));
    }
    let limit = |error: LimitExceeded| error.to_string();
    let service = Name::parse("serviceName", service_name).map_err(limit)?;
    let namespace = Name::parse_namespace(NAMESPACE).map_err(limit)?;
    let id = Name::parse("nodeName", node_name).map_err(limit)?;
    let address = address(host_name, body)?;
    let mut registration = Registration::new(id, address, time_out_s * 1_000 + LEASE_EXTRA_MS);
    registration.weight = u16::try_from(weight).unwrap_or(1);
    if let Some(probe) = probe(body.get("healthCheckPath"))? {
        registration = registration.with_probe(probe);
    }
    Ok((ServiceKey::new(namespace, service), registration))
}

/// A whole number from a number or a text. A fraction is cut off and a sign is dropped. `None` for 0 and for anything
/// that is not a number.
fn positive_integer(value: Option<&Value>) -> Option<u64> {
    let number = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    if !number.is_finite() {
        return None;
    }
    // A cast from f64 saturates, so a value that is far too large stays too large.
    let whole = number.trunc().abs() as u64;
    (whole > 0).then_some(whole)
}

/// Joins and checks the scheme, host, port and base path of an instance.
fn address(host_name: &str, body: &Map<String, Value>) -> Result<Address, String> {
    let has_scheme = |scheme: &str| {
        host_name.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    };
    let (scheme, host) = match host_name {
        _ if has_scheme("http://") => ("http://", &host_name["http://".len()..]),
        _ if has_scheme("https://") => ("https://", &host_name["https://".len()..]),
        _ if is_true(body.get("ssl")) => ("https://", host_name),
        _ => ("http://", host_name),
    };
    let host = host.strip_suffix('/').unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        return Err("hostName must be a host, or http:// or https:// and a host".into());
    }
    let port = port(body.get("port"))?.map(|port| format!(":{port}")).unwrap_or_default();
    let path = base_path(body.get("path"))?;
    let text = format!("{scheme}{host}{port}{path}");
    Address::parse(&text).map_err(|error| error.to_string())
}

fn port(value: Option<&Value>) -> Result<Option<u16>, String> {
    let number = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        Some(Value::Number(number)) => number.as_u64(),
        Some(_) => None,
    };
    let port = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    port.map(Some).ok_or_else(|| "port must be a whole number from 1 to 65535".to_owned())
}

fn base_path(value: Option<&Value>) -> Result<String, String> {
    let path = match value {
        None | Some(Value::Null) => "",
        Some(Value::String(path)) => path.as_str(),
        Some(_) => return Err("path must be a text".into()),
    };
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() || path.starts_with('/') {
        return Ok(path.into());
    }
    Ok(format!("/{path}"))
}

/// Whether JavaScript treats a value as true. Existing clients may send `1` or `"yes"`.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64().is_some_and(|number| number != 0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

/// Stores the health check path in a probe of the kind `Heartbeat`, which makes no requests by itself. Whether such
/// paths are requested is a setting of the whole node.
fn probe(value: Option<&Value>) -> Result<Option<ProbeSpec>, String> {
    let path = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(path)) if path.is_empty() => return Ok(None),
        Some(Value::String(path)) => path.clone(),
        Some(_) => return Err("healthCheckPath must be a text".into()),
    };
    let probe = ProbeSpec { kind: ProbeKind::Heartbeat, path, ..ProbeSpec::default() };
    probe
        .check()
        .map_err(|error| format!("healthCheckPath must be {}, got {}", error.limit, error.value))?;
    Ok(Some(probe))
}

/// The `timeOut` of an instance in seconds, whichever API registered it; `None` if it never expires.
pub(super) fn time_out_s(registration: &Registration) -> Option<u64> {
    registration.expiry.ttl_ms().map(|ttl_ms| (ttl_ms / 1_000).max(1))
}

/// The `healthCheckPath` of an instance.
pub(super) fn health_check_path(registration: &Registration) -> &str {
    registration.probe().map_or("", |probe| probe.path.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read_with(extra: Value) -> Result<Registration, String> {
        let mut body = Map::new();
        for (field, value) in [("hostName", "h"), ("nodeName", "n"), ("serviceName", "s")] {
            body.insert(field.into(), value.into());
        }
        body.extend(extra.as_object().unwrap().clone());
        read(&body, 5).map(|(_, registration)| registration)
    }

    #[test]
    fn addresses_are_as_documented() {
        for (extra, address) in [
            (json!({}), "http://h"),
            (json!({"port": 8080}), "http://h:8080"),
            (json!({"port": "8080"}), "http://h:8080"),
            (json!({"port": ""}), "http://h"),
            (json!({"port": null}), "http://h"),
            (json!({"port": 8080, "ssl": true, "path": "api/"}), "https://h:8080/api"),
            (json!({"path": "/"}), "http://h"),
            (json!({"path": ""}), "http://h"),
            (json!({"hostName": "http://h", "ssl": true, "port": 1}), "http://h:1"),
            (json!({"hostName": "https://h", "ssl": false}), "https://h"),
        ] {
            assert_eq!(read_with(extra.clone()).unwrap().address.as_str(), address, "{extra}");
        }
    }

    #[test]
    fn numbers_are_coerced_as_documented() {
        for (given, time_out_s) in [
            (json!(7), 7),
            (json!("7"), 7),
            (json!(7.9), 7),
            (json!(-7), 7),
            (json!("-7.9"), 7),
            (json!(0), 5),
            (json!(0.5), 5),
            (json!(null), 5),
            (json!("seven"), 5),
            (json!(true), 5),
            (json!([7]), 5),
            (json!("NaN"), 5),
        ] {
            let registration = read_with(json!({ "timeOut": given })).unwrap();
            assert_eq!(registration.expiry.ttl_ms(), Some(time_out_s * 1_000 + 500), "{given}");
            assert_eq!(super::time_out_s(&registration), Some(time_out_s));
        }
        assert_eq!(read_with(json!({"weight": "10"})).unwrap().weight, 10);
        assert_eq!(read_with(json!({"weight": -3})).unwrap().weight, 3);
        assert_eq!(read_with(json!({"weight": 0})).unwrap().weight, 1);
        assert_eq!(read_with(json!({"weight": 11})).unwrap_err(), INVALID);
        assert_eq!(
            read_with(json!({"timeOut": 2_147_484})).unwrap().expiry.ttl_ms(),
            Some(2_147_484_500)
        );
        assert!(read_with(json!({"timeOut": 1e300})).is_err());
    }

    #[test]
    fn values_that_lead_elsewhere_are_refused() {
        for extra in [
            json!({"hostName": 5}),
            json!({"hostName": ""}),
            json!({"hostName": "a/b"}),
            json!({"hostName": "user@h"}),
            json!({"hostName": "h?x"}),
            json!({"hostName": "h\r\nx: y"}),
            json!({"hostName": "ftp://h"}),
            json!({"port": 0}),
            json!({"port": 65536}),
            json!({"port": -1}),
            json!({"port": 80.5}),
            json!({"port": "80a"}),
            json!({"port": true}),
            json!({"path": "/a/../b"}),
            json!({"path": "/%2e%2e/b"}),
            json!({"path": "/a?b"}),
            json!({"path": 5}),
            json!({"healthCheckPath": "http://elsewhere/"}),
            json!({"healthCheckPath": "//elsewhere/"}),
            json!({"nodeName": "x".repeat(256)}),
            json!({"serviceName": "a\nb"}),
        ] {
            assert!(read_with(extra.clone()).is_err(), "{extra}");
        }
    }

    proptest! {
        #[test]
        fn any_host_is_refused_or_is_an_address_below_a_scheme(host in "\\PC{1,40}", path in "\\PC{0,20}") {
            if let Ok(registration) = read_with(json!({"hostName": host, "path": path})) {
                let address = registration.address.as_str();
                prop_assert!(address.starts_with("http://") || address.starts_with("https://"));
                prop_assert!(address.bytes().all(|b| !b.is_ascii_control()));
            }
        }
    }
}
