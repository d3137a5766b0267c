//! Messages between nodes about probes: the observations of a node for the leader, and the leader's reports
//! of all observers.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;

use bincode::{Decode, Encode};

use maxine_control::health::{Observation, ObserverReport, ProbeStatus};
use maxine_state::{InstanceKey, Name, ServiceKey};

/// Maximum number of observations in one message.
pub(crate) const OBSERVATIONS_MAX: usize = 2_000;
/// Maximum length of a message, in bytes.
const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;

/// A message that cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("observations cannot be read: {0}")]
pub struct ObservationError(String);

/// Versions are only ever appended.
#[derive(Encode, Decode)]
enum Wire {
    V1 { observer: String, items: Vec<Item> },
}

#[derive(Encode, Decode)]
struct Item {
    namespace: Name,
    service: Name,
    instance: Name,
    address_index: u64,
    status: ProbeStatus,
    passive: bool,
    detail: String,
}

/// Encodes the observations of `observer`.
pub fn encode_observations(
    observer: &str,
    observations: &[Observation],
) -> Result<Vec<u8>, ObservationError> {
    let item = |o: &Observation| Item {
        namespace: o.key.service.namespace.clone(),
        service: o.key.service.service.clone(),
        instance: o.key.instance.clone(),
        address_index: o.address_index,
        status: o.status,
        passive: o.passive,
        detail: o.detail.clone(),
    };
    let items = observations.iter().take(OBSERVATIONS_MAX).map(item).collect();
    let config = bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>();
    bincode::encode_to_vec(Wire::V1 { observer: observer.into(), items }, config)
        .map_err(|error| ObservationError(error.to_string()))
}

/// Decodes the observer and its observations.
pub fn decode_observations(bytes: &[u8]) -> Result<(String, Vec<Observation>), ObservationError> {
    let config = bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>();
    let (wire, _): (Wire, _) = bincode::decode_from_slice(bytes, config)
        .map_err(|error| ObservationError(error.to_string()))?;
    let Wire::V1 { observer, items } = wire;
    if items.len() > OBSERVATIONS_MAX {
        return Err(ObservationError(format!("{} items in one message", items.len())));
    }
    let observation = |item: Item| Observation {
        key: ServiceKey::new(item.namespace, item.service).instance(item.instance),
        address_index: item.address_index,
        status: item.status,
        passive: item.passive,
        detail: item.detail,
    };
    Ok((observer, items.into_iter().map(observation).collect()))
}

/// A question for the leader, and its answer. Versions are only ever appended.
#[derive(Encode, Decode)]
enum ReportsWire {
    AskV1 { namespace: Name, service: Name, instance: Name },
    ReportsV1 { reports: Vec<ObserverReport> },
}

/// Maximum number of reports in one answer. Fewer nodes probe one instance.
const REPORTS_MAX: usize = 256;

fn encode_wire(wire: ReportsWire) -> Result<Vec<u8>, ObservationError> {
    let config = bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>();
    bincode::encode_to_vec(wire, config).map_err(|error| ObservationError(error.to_string()))
}

fn decode_wire(bytes: &[u8]) -> Result<ReportsWire, ObservationError> {
    let config = bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>();
    let decoded = bincode::decode_from_slice(bytes, config);
    decoded.map(|(wire, _)| wire).map_err(|error| ObservationError(error.to_string()))
}

/// Encodes the question for the reports about an instance.
pub fn encode_ask(key: &InstanceKey) -> Result<Vec<u8>, ObservationError> {
    encode_wire(ReportsWire::AskV1 {
        namespace: key.service.namespace.clone(),
        service: key.service.service.clone(),
        instance: key.instance.clone(),
    })
}

/// Decodes the question.
pub fn decode_ask(bytes: &[u8]) -> Result<InstanceKey, ObservationError> {
    match decode_wire(bytes)? {
        ReportsWire::AskV1 { namespace, service, instance } => {
            Ok(ServiceKey::new(namespace, service).instance(instance))
        }
        ReportsWire::ReportsV1 { .. } => Err(ObservationError("an answer, not a question".into())),
    }
}

/// Encodes the answer.
pub fn encode_reports(mut reports: Vec<ObserverReport>) -> Result<Vec<u8>, ObservationError> {
    reports.truncate(REPORTS_MAX);
    encode_wire(ReportsWire::ReportsV1 { reports })
}

/// Decodes the answer.
pub fn decode_reports(bytes: &[u8]) -> Result<Vec<ObserverReport>, ObservationError> {
    match decode_wire(bytes)? {
        ReportsWire::ReportsV1 { reports } => Ok(reports),
        ReportsWire::AskV1 { .. } => Err(ObservationError("a question, not an answer".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_keep_their_bytes() {
        let key = ServiceKey::new(Name::trusted("d"), Name::trusted("s")).instance("i".into_name());
        let one = Observation {
            key,
            address_index: 7,
            status: ProbeStatus::Dead,
            passive: false,
            detail: "x".into(),
        };
        let bytes = encode_observations("n", std::slice::from_ref(&one)).unwrap();
        assert_eq!(bytes, [0, 1, b'n', 1, 1, b'd', 1, b's', 1, b'i', 7, 2, 0, 1, b'x']);
        assert_eq!(decode_observations(&bytes).unwrap(), ("n".into(), vec![one]));
        for cut in 0..bytes.len() {
            assert!(decode_observations(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn questions_and_answers_keep_their_bytes() {
        let key = ServiceKey::new(Name::trusted("d"), Name::trusted("s")).instance("i".into_name());
        let bytes = encode_ask(&key).unwrap();
        assert_eq!(bytes, [0, 1, b'd', 1, b's', 1, b'i']);
        assert_eq!(decode_ask(&bytes).unwrap(), key);
        let report = ObserverReport {
            observer: "n".into(),
            status: ProbeStatus::Dead,
            passive: true,
            detail: "x".into(),
            age_ms: 9,
        };
        let bytes = encode_reports(vec![report.clone()]).unwrap();
        assert_eq!(bytes, [1, 1, 1, b'n', 2, 1, 1, b'x', 9]);
        assert_eq!(decode_reports(&bytes).unwrap(), [report]);
        assert!(decode_ask(&bytes).is_err());
    }

    trait IntoName {
        fn into_name(self) -> Name;
    }

    impl IntoName for &str {
        fn into_name(self) -> Name {
            Name::trusted(self)
        }
    }
}
