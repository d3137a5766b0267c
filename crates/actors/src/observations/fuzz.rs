//! Fuzz target: any message of observations is decoded or refused. A decoded message is encoded and decoded
//! without a change.

use super::{decode_observations, encode_observations};
use maxine_control::health::{Observation, ProbeStatus};
use maxine_state::{Name, ServiceKey};

pub(crate) fn observations(bytes: &[u8]) {
    if let Ok((observer, items)) = decode_observations(bytes) {
        let again = encode_observations(&observer, &items).expect("what was read can be written");
        let (same_observer, same_items) = decode_observations(&again).expect("our own");
        assert_eq!((same_observer, same_items), (observer, items));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
    let observation = |id: &str, status| Observation {
        key: key.instance(Name::trusted(id)),
        address_index: 7,
        status,
        passive: false,
        detail: "200".into(),
    };
    let items = [observation("a", ProbeStatus::Good), observation("b", ProbeStatus::Dead)];
    vec![encode_observations("node-1", &items).expect("within the limits")]
}
