//! Two nodes that greet each other over a pipe in memory.

use std::path::Path;

use super::*;
use crate::codec::LogIdDto;

const FRAME_LEN_MAX: usize = 64 * 1024;

fn id(index: u64) -> LogId {
    consensus::log_id_from_dto(LogIdDto { term: 1, node: 0, index })
}

/// A node with this number, and how it finds out where its log ends.
fn node(
    dir: &Path,
    node_id: NodeId,
    log_end: impl Fn() -> LogId + Send + Sync + 'static,
) -> LocalIdentity {
    let path = dir.join(node_id.to_string());
    let dir = Arc::new(NodeDir::open(&path, "demo", node_id, None).unwrap());
    LocalIdentity {
        cluster_id: "demo".into(),
        node_id,
        app_version: 1,
        introduction: Introduction::default(),
        admit_version: Box::new(|_| Ok(())),
        refusals: Refusals::new(dir.clone()),
        dir,
        acknowledged: Arc::default(),
        log_end: Box::new(move || (Some(log_end()), 1)),
        roster: Arc::default(),
        is_pristine: Box::new(|| false),
        stop_for: Box::new(|reason| panic!("{reason}")),
    }
}

/// Node 1 and node 2 greet each other; `one_opens` says which of them opens the connection.
async fn handshake_between(one: &LocalIdentity, two: &LocalIdentity, one_opens: bool) {
    let (near, far) = tokio::io::duplex(FRAME_LEN_MAX);
    let (opens, takes) = if one_opens { (one, two) } else { (two, one) };
    let greeting = greet(opens, Box::new(near), takes.node_id, Channel::Control, FRAME_LEN_MAX);
    let (greeted, received) =
        tokio::join!(greeting, receive(takes, Box::new(far), None, FRAME_LEN_MAX));
    greeted.unwrap();
    received.unwrap();
}

/// A node that acknowledges entries on one connection while it greets on another is no node with an older copy. At the
/// first start of a cluster nodes open several connections to each other, and write at once.
#[tokio::test]
async fn what_is_acknowledged_during_the_greeting_is_no_sign_of_an_older_copy() {
    for one_opens in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let one = node(dir.path(), 1, || id(9));
        let known = one.acknowledged.clone();
        known.note(2, id(5));
        // As soon as node 2 has said where its log ends, node 1 hears of more by another connection.
        let two = node(dir.path(), 2, move || {
            known.note(2, id(9));
            id(5)
        });
        handshake_between(&one, &two, one_opens).await;
        assert_eq!(two.acknowledged.lost(), None, "one_opens: {one_opens}");
    }
}

#[tokio::test]
async fn a_node_whose_log_ends_before_what_it_had_acknowledged_learns_that() {
    for one_opens in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (node(dir.path(), 1, || id(9)), node(dir.path(), 2, || id(5)));
        one.acknowledged.note(2, id(9));
        handshake_between(&one, &two, one_opens).await;
        let lost = two.acknowledged.lost().expect("it is reported");
        assert_eq!(lost.last, id(9), "one_opens: {one_opens}");
        assert_eq!(one.acknowledged.lost(), None);
    }
}
