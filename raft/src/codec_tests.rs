//! Golden bytes. A change here breaks existing nodes and disks.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn log_id(term: u64, node: u64, index: u64) -> LogIdDto {
    LogIdDto { term, node, index }
}

fn membership() -> MembershipDto {
    MembershipDto {
        voters: vec![vec![1, 2]],
        members: vec![MemberDto {
            id: 1,
            peer_addr: "a:1".into(),
            http_addr: "b:2".into(),
            name: "n".into(),
        }],
    }
}

#[track_caller]
fn golden<B: Body + PartialEq + std::fmt::Debug>(body: B, expected: &str) {
    let bytes = encode(&body);
    assert_eq!(hex(&bytes), expected);
    assert_eq!(decode::<B>(&bytes).unwrap(), body);
}

#[test]
fn stored_bodies_keep_their_bytes() {
    golden(
        StoredEntry::V1(EntryDto {
            log_id: log_id(3, 1, 300),
            payload: PayloadDto::Normal(b"xyz".to_vec()),
        }),
        "4d580101000301fb2c01010378797a",
    );
    golden(
        StoredEntry::V1(EntryDto { log_id: log_id(1, 1, 0), payload: PayloadDto::Blank }),
        "4d5801010001010000",
    );
    golden(
        StoredEntry::V1(EntryDto {
            log_id: log_id(1, 1, 0),
            payload: PayloadDto::Membership(membership()),
        }),
        "4d580101000101000201020102010103613a3103623a32016e",
    );
    golden(StoredVote::V1(VoteDto { term: 7, node: 2, committed: true }), "4d58010200070201");
    golden(StoredLogId::V1(log_id(7, 2, 9)), "4d58010300070209");
    golden(
        SnapshotHead::V1(SnapshotHeadDto {
            cluster_id: "demo".into(),
            lineage: 5,
            last: Some(log_id(1, 2, 3)),
            membership_log_id: None,
            membership: membership(),
        }),
        "4d580104000464656d6f05010102030001020102010103613a3103623a32016e",
    );
    golden(
        SnapshotHead::V2(
            SnapshotHeadDto {
                cluster_id: "demo".into(),
                lineage: 5,
                last: Some(log_id(1, 2, 3)),
                membership_log_id: None,
                membership: membership(),
            },
            vec![1, 300],
        ),
        "4d580104010464656d6f05010102030001020102010103613a3103623a32016e0201fb2c01",
    );
    golden(
        Identity::V1(IdentityDto {
            cluster_id: "demo".into(),
            node_id: 1,
            lineage: 0,
            engine: "sled".into(),
        }),
        "4d580109000464656d6f010004736c6564",
    );
    golden(Removal::V1 { lineage: 5, reason: "x".into() }, "4d58010e00050178");
    let dir_ids = DirIdsDto { own: 7, lineage: 5, peers: vec![(2, 22)] };
    golden(DirIds::V1(dir_ids), "4d58010b000705010216");
    golden(
        LogMark::V1(LogMarkDto { last: Some(log_id(1, 2, 3)), vote_term: 1, vote_node: 2 }),
        "4d58010a00010102030102",
    );
}

#[test]
fn handshake_keeps_its_bytes() {
    golden(
        Hello::V1(HelloDto {
            cluster_id: "demo".into(),
            lineage: 0,
            node_id: 1,
            target_id: 2,
            channel: Channel::App,
            app_version: 3,
            protocol_min: 1,
            protocol_max: 1,
        }),
        "4d580105000464656d6f00010203030101",
    );
    golden(
        Welcome::Accepted {
            node_id: 2,
            app_version: 3,
            protocol: 1,
            lineage: 0,
            name: "n".into(),
            http_addr: "b:2".into(),
        },
        "4d5801060002030100016e03623a32",
    );
    golden(Welcome::Refused { reason: "no".into() }, "4d58010601026e6f");
    golden(Welcome::Removed { reason: "no".into() }, "4d58010602026e6f");
    golden(Welcome::OtherHistory { reason: "no".into() }, "4d58010603026e6f");
    golden(Welcome::TooOld { reason: "no".into() }, "4d58010604026e6f");
    golden(DirShown { dir_id: 7, last: None }, "4d58010c0700");
    let shown = DirShown { dir_id: 9, last: Some(log_id(1, 2, 3)) };
    let known = DirSeen::Known { shown, acknowledged: Some(log_id(1, 2, 4)), term: 5 };
    golden(known, "4d58010d0009010102030101020405");
    golden(DirSeen::Replaced, "4d58010d01");
}

#[test]
fn requests_keep_their_bytes() {
    let vote = VoteDto { term: 7, node: 2, committed: true };
    let append = AppendDto { vote, prev: Some(log_id(1, 1, 1)), commit: None, entries: vec![] };
    golden(Request::Ping, "4d58010700");
    golden(Request::Append(append.clone()), "4d58010701070201010101010000");
    golden(Request::Heartbeat(append), "4d58010702070201010101010000");
    let vote_request = VoteRequestDto { vote, last: None, transfer: true };
    golden(Request::Vote(vote_request.clone()), "4d580107030702010001");
    golden(Request::PreVote(vote_request.clone()), "4d580107040702010001");
    golden(Request::TransferLeader { from: vote, to: 3, last: None }, "4d580107050702010300");
    golden(Request::SnapshotBegin { vote, len: 9 }, "4d5801070607020109");
    golden(Request::SnapshotChunk { offset: 1, bytes: vec![2] }, "4d58010707010102");
    golden(Request::SnapshotEnd { len: 9 }, "4d5801070809");
    golden(Request::Propose { payload: vec![1], timeout_ms: 5 }, "4d58010709010105");
    golden(Request::ReadIndex { strong: true, timeout_ms: 5 }, "4d5801070a0105");
    golden(Request::App { body: vec![1] }, "4d5801070b0101");
    let operation = AdminDto::Promote { id: 4, force: false };
    golden(Request::Admin { operation, timeout_ms: 5 }, "4d5801070c01040005");
    let operation = AdminDto::Remove { id: 4, force: true };
    golden(Request::Admin { operation, timeout_ms: 5 }, "4d5801070c02040105");
    golden(Request::Confirm, "4d5801070d");
    golden(Request::AppliedIndex, "4d5801070e");
    golden(Request::Membership, "4d5801070f");
    golden(Request::VoteWithAge(vote_request), "4d580107100702010001");
    golden(Request::Suspect { leader: vote, last: None }, "4d5801071107020100");
}

#[test]
fn responses_keep_their_bytes() {
    let vote = VoteDto { term: 7, node: 2, committed: true };
    golden(Response::Pong, "4d58010800");
    golden(Response::AppendOk, "4d58010801");
    golden(Response::AppendPartial(None), "4d5801080200");
    golden(Response::AppendConflict, "4d58010803");
    golden(Response::HigherVote(vote), "4d58010804070201");
    golden(Response::Vote { vote, granted: false, last: None }, "4d580108050702010000");
    golden(Response::Transferred, "4d58010806");
    golden(Response::TransferRefused("x".into()), "4d580108070178");
    golden(Response::SnapshotReady, "4d58010808");
    golden(Response::SnapshotInstalled { vote }, "4d58010809070201");
    golden(Response::Proposed { index: 1, term: 2, reply: vec![3] }, "4d5801080a01020103");
    golden(
        Response::ProposeRefused(ProposeRefusalDto::NotLeader { hint: Some(1) }),
        "4d5801080b000101",
    );
    golden(Response::ReadIndex { index: 5 }, "4d5801080c05");
    golden(Response::ReadRefused, "4d5801080d");
    golden(Response::App { body: vec![1] }, "4d5801080e0101");
    golden(Response::AppRefused("x".into()), "4d5801080f0178");
    golden(Response::AdminDone, "4d58010810");
    golden(Response::AdminRefused(AdminRefusalDto::OutcomeUnknown), "4d5801081103");
    golden(Response::Failed("x".into()), "4d580108120178");
    golden(Response::Busy, "4d58010813");
    let acknowledged = vec![(3, log_id(1, 2, 8))];
    let confirmed = ConfirmedDto { term: 2, commit: 9, confirmed_us: 40, acknowledged };
    golden(Response::Confirmed(confirmed), "4d580108140209280103010208");
    golden(Response::NotMember("x".into()), "4d580108150178");
    golden(Response::Removed("x".into()), "4d580108160178");
    golden(Response::AppliedIndex { applied: 5 }, "4d5801081705");
    golden(
        Response::Membership { index: 5, membership: membership() },
        "4d580108180501020102010103613a3103623a32016e",
    );
    golden(
        Response::VoteWithAge { vote, granted: false, last: None, accepted_us: Some(9) },
        "4d5801081907020100000109",
    );
    golden(Response::Suspects(true), "4d5801081a01");
}

#[test]
fn foreign_bytes_are_refused() {
    assert_eq!(decode::<StoredVote>(b"MX"), Err(CodecError::Short(2)));
    assert_eq!(decode::<StoredVote>(b"XX\x01\x02\x00"), Err(CodecError::Magic(*b"XX")));
    assert_eq!(decode::<StoredVote>(b"MX\x02\x02\x00"), Err(CodecError::Version(2)));
    assert_eq!(
        decode::<StoredVote>(b"MX\x01\x03\x00"),
        Err(CodecError::Kind { expected: 2, found: 3 })
    );
    let mut long = encode(&StoredVote::V1(VoteDto { term: 1, node: 1, committed: false }));
    long.push(0);
    assert!(matches!(decode::<StoredVote>(&long), Err(CodecError::Body(_))));
}

#[test]
fn a_claimed_length_over_the_limit_is_refused_before_it_is_allocated() {
    // An entry whose payload claims a length of 2^60 bytes.
    let mut bytes = vec![b'M', b'X', 1, Kind::Entry as u8, 0, 1, 1, 1, 1, 253];
    bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(matches!(decode::<StoredEntry>(&bytes), Err(CodecError::Body(_))));
}
