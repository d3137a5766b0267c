use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use super::codec::{Message, decode, encode};
use super::samples::{answers, asks};
use super::*;
use maxine_clock::Clock;
use maxine_control::health::{LastResult, Observation, ProbeStatus};
use maxine_control::leases::{FormerLease, LeaseId};
use maxine_state::{Name, ServiceKey};
use maxine_store::MemoryStore;
use maxine_view::View;

const SOON: Duration = Duration::from_secs(5);

fn keeps_its_bytes<M: Message + PartialEq + Debug>(message: &M, bytes: &[u8]) {
    assert_eq!(&encode(message).unwrap()[..], bytes, "{message:?}");
    assert_eq!(&decode::<M>(bytes).unwrap(), message);
    for cut in 0..bytes.len() {
        assert!(decode::<M>(&bytes[..cut]).is_err(), "{message:?} cut at {cut}");
    }
    let longer = [bytes, b"\0"].concat();
    assert!(matches!(decode::<M>(&longer), Err(MessageError::Damaged(_))), "{message:?}");
}

#[test]
fn every_message_keeps_its_bytes() {
    let (asks, answers) = (asks(), answers());
    let kinds = |bytes: &[&[u8]]| bytes.iter().map(|bytes| bytes[0]).collect::<BTreeSet<u8>>();
    let asked = kinds(&asks.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>());
    let answered = kinds(&answers.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>());
    assert_eq!(asked, (0..14).collect(), "one of each kind");
    assert_eq!(answered, asked);
    asks.iter().for_each(|(ask, bytes)| keeps_its_bytes(ask, bytes));
    answers.iter().for_each(|(answer, bytes)| keeps_its_bytes(answer, bytes));
    // The first kind that no row has yet.
    assert_eq!(decode::<Ask>(b"\x0e"), Err(MessageError::Unknown));
    assert_eq!(decode::<Answer>(b"\x0e"), Err(MessageError::Unknown));
}

#[test]
fn a_renewal_that_is_cut_off_is_refused() {
    let ask = Renew([(LeaseId(1), 2)].into_iter().collect()).into_ask();
    let mut bytes = encode(&ask).unwrap().to_vec();
    bytes[1] -= 1;
    bytes.pop();
    assert!(matches!(decode::<Ask>(&bytes), Err(MessageError::Damaged(_))));
}

#[test]
fn the_largest_messages_fit_and_larger_ones_are_not_sent() {
    let page = |len| {
        let lease = FormerLease {
            id: LeaseId(u128::MAX),
            registered_index: u64::MAX,
            left_ms: u64::MAX,
            extensions: u8::MAX,
        };
        Answer::FormerLeases(LeasePage { leases: vec![lease; len], more: true, suspended_ms: None })
    };
    let largest = page(PAGE_LEN_MAX);
    assert_eq!(decode::<Answer>(&encode(&largest).unwrap()).unwrap(), largest);
    let too_many = MessageError::TooMany { len: PAGE_LEN_MAX + 1, max: PAGE_LEN_MAX };
    assert_eq!(encode(&page(PAGE_LEN_MAX + 1)), Err(too_many));
    let observations = |len| {
        let key =
            ServiceKey::new(Name::trusted("d"), Name::trusted("s")).instance(Name::trusted("i"));
        let one = Observation {
            key,
            address_index: u64::MAX,
            status: Some(ProbeStatus::Dead),
            passive: false,
            last: LastResult { at_ms: u64::MAX, ok: false, detail: "x".repeat(1_024) },
        };
        Observations { observer: "n".into(), items: vec![one; len] }.into_ask()
    };
    let largest = observations(OBSERVATIONS_MAX);
    assert_eq!(decode::<Ask>(&encode(&largest).unwrap()).unwrap(), largest);
    let too_many = MessageError::TooMany { len: OBSERVATIONS_MAX + 1, max: OBSERVATIONS_MAX };
    assert_eq!(encode(&observations(OBSERVATIONS_MAX + 1)), Err(too_many));
    let long = Renew((0..180_000).map(|at| (LeaseId(at), 1)).collect()).into_ask();
    assert!(matches!(encode(&long), Err(MessageError::TooLong { .. })));
}

struct Always<T>(T);

impl<Q: Question> PeerService<Q> for Always<Q::Answer>
where
    Q::Answer: Clone + Sync,
{
    fn answer(&self, _: Q) -> BoxFuture<'static, Result<Q::Answer, String>> {
        futures::future::ready(Ok(self.0.clone())).boxed()
    }
}

/// Answers every message with these bytes, as a node of another version may.
struct Raw(&'static [u8]);

impl PeerHandler for Raw {
    fn handle(&self, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        futures::future::ready(Ok(Bytes::from_static(self.0))).boxed()
    }
}

fn store(peers: Arc<dyn PeerHandler>) -> MemoryStore {
    MemoryStore::new(View::new(Clock::system()), "node-1", peers)
}

#[tokio::test]
async fn a_question_gets_its_answer_or_says_why_not() {
    let peers = PeerRouter::new();
    let store = store(Arc::clone(&peers) as _);
    let starting = call(&store, To::Leader, WallTime, SOON).await;
    assert_eq!(starting, Err(CallError::Refused("this node is still starting".into())));
    peers.wall_time.set(Always(250));
    assert_eq!(call(&store, To::Leader, WallTime, SOON).await, Ok(250));
    store.set_available(false);
    assert_eq!(call(&store, To::Leader, WallTime, SOON).await, Err(CallError::Unreachable));
}

#[tokio::test]
async fn messages_of_a_newer_node_are_refused_with_the_reason() {
    let newer = "unknown message: it comes from a newer version of Maxine, or is damaged";
    let refused = PeerRouter::new().handle(Bytes::from_static(b"\x0e")).await;
    assert_eq!(refused, Err(newer.to_owned()));
    let answer = call(&store(Arc::new(Raw(b"\x0e"))), To::Leader, WallTime, SOON).await;
    assert_eq!(answer, Err(CallError::Unreadable(newer.to_owned())));
    let other = call(&store(Arc::new(Raw(b"\x01"))), To::Leader, WallTime, SOON).await;
    let wrong = CallError::Unreadable("the node answered another question".into());
    assert_eq!(other, Err(wrong));
}
