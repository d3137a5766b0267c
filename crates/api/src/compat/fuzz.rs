//! Fuzz targets: bodies and headers of the compatible API.

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value};

use super::{config, discover, registration};
use maxine_state::RuntimeConfig;

/// Any JSON object is either a registration within the limits, or refused with a text. As a change of the
/// configuration, it leads to a configuration within the limits.
pub(crate) fn body(bytes: &[u8]) {
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return };
    match registration::read(&object, 5) {
        Ok((service, registration)) => {
            assert_eq!(registration.check(), Ok(()));
            assert_eq!(service.namespace.as_str(), super::NAMESPACE);
            let address = registration.address.as_str();
            assert!(address.starts_with("http://") || address.starts_with("https://"), "{address}");
            assert!(
                address.bytes().all(|b| b.is_ascii_graphic()) || !address.is_ascii(),
                "{address:?}"
            );
            assert!(
                registration::time_out_s(&registration).is_some_and(|time_out_s| time_out_s > 0)
            );
            let probe = registration::health_check_path(&registration);
            assert!(!probe.contains("://"), "a health check elsewhere: {probe}");
        }
        Err(text) => assert!(!text.is_empty()),
    }
    let (config, report) = config::changed(&RuntimeConfig::default(), &object);
    assert_eq!(config.check(), Ok(()));
    assert!(report.len() <= object.len());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        r#"{"hostName":"10.0.0.1","nodeName":"a","serviceName":"s","port":"8080","ssl":1,"path":"api/","timeOut":"7.9","weight":2,"healthCheckPath":"health"}"#,
        r#"{"hostName":"https://[::1]","nodeName":"a","serviceName":"__proto__","port":null,"timeOut":-1e300,"weight":"10"}"#,
        r#"{"hostName":"h/..","nodeName":"","serviceName":"\u0000","port":70000,"path":"/../x","healthCheckPath":"http://elsewhere"}"#,
        r#"{"logAsync":false,"heartBeatTimeout":9,"serverSelectionStrategy":"RH","discoveryMode":"toString","logFormat":null}"#,
    ])
}

/// Any `Accept` selects one of the three bodies.
pub(crate) fn headers(headers: &HeaderMap) {
    let _ = discover::preferred(headers.get(header::ACCEPT).map(HeaderValue::as_bytes));
}
