//! Any message between nodes is decoded within its limits, or refused. A decoded message is the same after it was
//! encoded and decoded again.

use super::codec::{self, Message};
use super::samples::{answers, asks};
use super::{Answer, Ask};

fn reads<M: Message>(bytes: &[u8]) {
    let Ok(message) = codec::decode::<M>(bytes) else { return };
    let written = codec::encode(&message).expect("what was read can be written");
    let again = codec::decode::<M>(&written).expect("our own");
    assert_eq!(codec::encode(&again).expect("our own"), written);
}

pub(crate) fn messages(bytes: &[u8]) {
    reads::<Ask>(bytes);
    reads::<Answer>(bytes);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let asks = asks().into_iter().map(|(ask, _)| codec::encode(&ask));
    let answers = answers().into_iter().map(|(answer, _)| codec::encode(&answer));
    asks.chain(answers).map(|bytes| bytes.expect("within the limits").to_vec()).collect()
}
