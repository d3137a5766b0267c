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
        refusals: Refusals::default(),
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
        tokio::join!(greeting, receive(takes, Box::new(far), None, FRAME_LEN_MAX, |_| true));
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

/// Node 1 greets node 2, which does not know it as a member, and says `seen` about node 2's directory.
async fn says_as_stranger(
    one: &LocalIdentity,
    two: &LocalIdentity,
    seen: DirSeen,
) -> io::Result<HandshakeResult> {
    let (near, far) = tokio::io::duplex(FRAME_LEN_MAX);
    let speaking = async {
        let (read, mut write) = tokio::io::split(Box::new(near) as Box<dyn PeerStream>);
        let mut reader = FrameReader::new(read, FRAME_LEN_MAX);
        let hello = HelloDto {
            cluster_id: one.cluster_id.clone(),
            lineage: one.dir.lineage(),
            node_id: one.node_id,
            target_id: two.node_id,
            channel: Channel::Control,
            app_version: 1,
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        };
        send(&mut write, &Hello::V1(hello)).await.unwrap();
        frame(&mut reader).await.unwrap();
        send(&mut write, &one.shown()).await.unwrap();
        frame(&mut reader).await.unwrap();
        send(&mut write, &seen).await.unwrap();
    };
    let (_, received) =
        tokio::join!(speaking, receive(two, Box::new(far), None, FRAME_LEN_MAX, |_| false));
    received.map(|(_, _, greeted)| greeted)
}

#[tokio::test]
async fn what_a_node_that_is_no_member_says_counts_only_once_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (node(dir.path(), 1, || id(9)), node(dir.path(), 2, || id(5)));
    // `stop_for` of this node 2 would panic.
    let Err(closed) = says_as_stranger(&one, &two, DirSeen::Replaced).await else {
        panic!("the connection is not closed")
    };
    assert!(closed.to_string().contains("not believed"), "{closed}");
    let ahead = Some(consensus::log_id_to_dto(&id(9)));
    let lost = DirSeen::Known { shown: one.shown(), acknowledged: ahead, term: 3 };
    let greeted = says_as_stranger(&one, &two, lost).await.unwrap();
    assert_eq!(two.acknowledged.lost(), None);
    assert!(two.dir.matches_or_is_new(1, 12_345), "its directory is not recorded");

    believe(&two, 1, greeted.unbelieved.unwrap()).await.unwrap();
    let lost = two.acknowledged.lost().expect("a member named it, so its report counts");
    assert_eq!((lost.last, lost.term), (id(9), 3));
    assert!(!two.dir.matches_or_is_new(1, 12_345));
}
