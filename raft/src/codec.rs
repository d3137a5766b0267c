//! Encodes and decodes everything that is stored or sent.
//!
//! Each value is one of the types below, in an envelope `magic | format version | kind | body`. Bodies are
//! enums whose variants are only ever appended; the golden bytes in the tests check that. Types of the
//! consensus library must not appear here.

use bincode::{Decode, Encode};

const MAGIC: [u8; 2] = *b"MX";
const FORMAT_VERSION: u8 = 1;
/// Length of the envelope's header, in bytes.
pub(crate) const HEAD_LEN: usize = 4;
/// Number of bytes that a frame may be longer than its payload.
pub(crate) const ENVELOPE_ROOM: usize = 64 * 1024;
/// Maximum size of a decoded value, in bytes, whatever lengths its encoding claims.
const DECODE_LEN_MAX: usize = 96 * 1024 * 1024;

type Standard = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODE_LEN_MAX>,
>;

fn settings() -> Standard {
    bincode::config::standard().with_limit::<DECODE_LEN_MAX>()
}

/// The kind of an envelope's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Entry = 1,
    Vote = 2,
    LogId = 3,
    SnapshotHead = 4,
    Hello = 5,
    Welcome = 6,
    Request = 7,
    Response = 8,
    Identity = 9,
    LogMark = 10,
    DirIds = 11,
    DirShown = 12,
    DirSeen = 13,
    Removal = 14,
}

/// Why bytes cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum CodecError {
    #[error("{0} bytes are too few for an envelope")]
    Short(usize),
    #[error("bad magic {0:02x?}")]
    Magic([u8; 2]),
    #[error("format version {0} is newer than this program understands ({FORMAT_VERSION})")]
    Version(u8),
    #[error("expected kind {expected}, found {found}")]
    Kind { expected: u8, found: u8 },
    #[error("malformed body: {0}")]
    Body(String),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string())
    }
}

/// Ties a body type to its kind, so that one kind cannot be decoded as another.
pub(crate) trait Body: Encode + Decode<()> {
    const KIND: Kind;
}

/// Encodes a body into its envelope.
pub(crate) fn encode<B: Body>(body: &B) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    encode_into(body, &mut out);
    out
}

/// Appends a body in its envelope to `out`.
pub(crate) fn encode_into<B: Body>(body: &B, out: &mut Vec<u8>) {
    out.extend_from_slice(&[MAGIC[0], MAGIC[1], FORMAT_VERSION, B::KIND as u8]);
    bincode::encode_into_std_write(body, out, settings())
        .expect("writing to a Vec cannot fail and our types have no fallible encoder");
}

/// Decodes an envelope that contains exactly one body.
pub(crate) fn decode<B: Body>(bytes: &[u8]) -> Result<B, CodecError> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_LEN) else {
        return Err(CodecError::Short(bytes.len()));
    };
    if head[..2] != MAGIC {
        return Err(CodecError::Magic([head[0], head[1]]));
    }
    if head[2] != FORMAT_VERSION {
        return Err(CodecError::Version(head[2]));
    }
    if head[3] != B::KIND as u8 {
        return Err(CodecError::Kind { expected: B::KIND as u8, found: head[3] });
    }
    let (body, used) = bincode::decode_from_slice(rest, settings())
        .map_err(|error| CodecError::Body(error.to_string()))?;
    if used != rest.len() {
        return Err(CodecError::Body(format!("{} bytes left over", rest.len() - used)));
    }
    Ok(body)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct LogIdDto {
    pub(crate) term: u64,
    /// Zero, and ignored: a term has one leader, so the term is enough. Older logs have a node here.
    pub(crate) node: u64,
    pub(crate) index: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct VoteDto {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct MemberDto {
    pub(crate) id: u64,
    pub(crate) peer_addr: String,
    pub(crate) http_addr: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub(crate) struct MembershipDto {
    /// One voter set, or two during a change.
    pub(crate) voters: Vec<Vec<u64>>,
    pub(crate) members: Vec<MemberDto>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum PayloadDto {
    Blank,
    Normal(Vec<u8>),
    Membership(MembershipDto),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EntryDto {
    pub(crate) log_id: LogIdDto,
    pub(crate) payload: PayloadDto,
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum StoredEntry {
    V1(EntryDto),
}
impl Body for StoredEntry {
    const KIND: Kind = Kind::Entry;
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum StoredVote {
    V1(VoteDto),
}
impl Body for StoredVote {
    const KIND: Kind = Kind::Vote;
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum StoredLogId {
    V1(LogIdDto),
}
impl Body for StoredLogId {
    const KIND: Kind = Kind::LogId;
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct SnapshotHeadDto {
    pub(crate) cluster_id: String,
    pub(crate) lineage: u64,
    pub(crate) last: Option<LogIdDto>,
    pub(crate) membership_log_id: Option<LogIdDto>,
    pub(crate) membership: MembershipDto,
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum SnapshotHead {
    V1(SnapshotHeadDto),
    /// Also names every node id that was ever a member, ascending.
    V2(SnapshotHeadDto, Vec<u64>),
}
impl Body for SnapshotHead {
    const KIND: Kind = Kind::SnapshotHead;
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct IdentityDto {
    pub(crate) cluster_id: String,
    pub(crate) node_id: u64,
    /// 0 until a restore or a recovery begins a new line of history.
    pub(crate) lineage: u64,
    pub(crate) engine: String,
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum Identity {
    V1(IdentityDto),
}
impl Body for Identity {
    const KIND: Kind = Kind::Identity;
}

/// Stored by a node that learned of its removal.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum Removal {
    /// The line of history from which it was removed, and the reason that it received.
    V1 { lineage: u64, reason: String },
}
impl Body for Removal {
    const KIND: Kind = Kind::Removal;
}

/// The ids of data directories that a node knows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct DirIdsDto {
    pub(crate) own: u64,
    /// The line of history in which the peers were met.
    pub(crate) lineage: u64,
    /// Each peer, with the directory that it had at the first meeting.
    pub(crate) peers: Vec<(u64, u64)>,
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum DirIds {
    V1(DirIdsDto),
}
impl Body for DirIds {
    const KIND: Kind = Kind::DirIds;
}

/// The durable end of the log. It is stored outside the engine, to detect entries that the engine lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub(crate) struct LogMarkDto {
    pub(crate) last: Option<LogIdDto>,
    pub(crate) vote_term: u64,
    pub(crate) vote_node: u64,
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum LogMark {
    V1(LogMarkDto),
}
impl Body for LogMark {
    const KIND: Kind = Kind::LogMark;
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) enum Channel {
    Append,
    Control,
    Snapshot,
    App,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct HelloDto {
    pub(crate) cluster_id: String,
    pub(crate) lineage: u64,
    pub(crate) node_id: u64,
    pub(crate) target_id: u64,
    pub(crate) channel: Channel,
    pub(crate) app_version: u32,
    pub(crate) protocol_min: u16,
    pub(crate) protocol_max: u16,
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum Hello {
    V1(HelloDto),
}
impl Body for Hello {
    const KIND: Kind = Kind::Hello;
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum Welcome {
    Accepted {
        node_id: u64,
        app_version: u32,
        protocol: u16,
        lineage: u64,
        /// The name and the address for clients that the node gives itself; empty if it gives none.
        name: String,
        http_addr: String,
    },
    Refused {
        reason: String,
    },
    /// The receiver was a member and was removed.
    Removed {
        reason: String,
    },
    /// The receiver belongs to another line of history.
    OtherHistory {
        reason: String,
    },
    /// The peer does not understand what is in the log.
    TooOld {
        reason: String,
    },
}
impl Body for Welcome {
    const KIND: Kind = Kind::Welcome;
}

/// Follows an accepted greeting from protocol 3 on: the data directory of the node that greeted.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct DirShown {
    pub(crate) dir_id: u64,
    /// The end of the log in that directory.
    pub(crate) last: Option<LogIdDto>,
}
impl Body for DirShown {
    const KIND: Kind = Kind::DirShown;
}

/// The answer to [`DirShown`].
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum DirSeen {
    /// The directory of the answering node, how far it knows the other node to have acknowledged the log, and
    /// its term.
    Known { shown: DirShown, acknowledged: Option<LogIdDto>, term: u64 },
    /// The node was met with another directory before.
    Replaced,
}
impl Body for DirSeen {
    const KIND: Kind = Kind::DirSeen;
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct AppendDto {
    pub(crate) vote: VoteDto,
    pub(crate) prev: Option<LogIdDto>,
    pub(crate) commit: Option<LogIdDto>,
    pub(crate) entries: Vec<EntryDto>,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct VoteRequestDto {
    pub(crate) vote: VoteDto,
    pub(crate) last: Option<LogIdDto>,
    pub(crate) transfer: bool,
}

/// An administrative operation that only the leader can carry out.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum AdminDto {
    AddLearner(MemberDto),
    /// With `force`, nobody checks whether the members are reachable.
    Promote {
        id: u64,
        force: bool,
    },
    /// With `force`, nobody checks whether the members are reachable.
    Remove {
        id: u64,
        force: bool,
    },
    Transfer(Option<u64>),
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum Request {
    Ping,
    Append(AppendDto),
    Heartbeat(AppendDto),
    Vote(VoteRequestDto),
    PreVote(VoteRequestDto),
    TransferLeader {
        from: VoteDto,
        to: u64,
        last: Option<LogIdDto>,
    },
    SnapshotBegin {
        vote: VoteDto,
        len: u64,
    },
    SnapshotChunk {
        offset: u64,
        bytes: Vec<u8>,
    },
    SnapshotEnd {
        len: u64,
    },
    Propose {
        payload: Vec<u8>,
        timeout_ms: u64,
    },
    ReadIndex {
        strong: bool,
        timeout_ms: u64,
    },
    App {
        body: Vec<u8>,
    },
    Admin {
        operation: AdminDto,
        timeout_ms: u64,
    },
    /// Asks the leader how far the log is committed.
    Confirm,
    /// Asks how far the log of the receiver is applied.
    AppliedIndex,
    /// Asks for the membership that the receiver has applied.
    Membership,
    /// Like `Vote`. The answer also says how long ago the receiver accepted a request of a leader. From
    /// protocol 5 on.
    VoteWithAge(VoteRequestDto),
    /// Asks whether the receiver, too, has evidence that the process of this leader is gone, and would vote for
    /// the sender, whose log ends here. From protocol 5 on.
    Suspect {
        leader: VoteDto,
        last: Option<LogIdDto>,
    },
}
impl Body for Request {
    const KIND: Kind = Kind::Request;
}

/// What a leader that a quorum has confirmed reports about the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ConfirmedDto {
    /// The leader's term.
    pub(crate) term: u64,
    /// The index up to which the log is committed. Its entry is of this term.
    pub(crate) commit: u64,
    /// How long before the answer the leader sent the latest request that a quorum has accepted, in
    /// microseconds, rounded up.
    pub(crate) confirmed_us: u64,
    /// How far each node is known to have acknowledged the log.
    pub(crate) acknowledged: Vec<(u64, LogIdDto)>,
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum ProposeRefusalDto {
    NotLeader { hint: Option<u64> },
    NoLeader,
    Overloaded,
    TooLarge { len: u64, max: u64 },
    OutcomeUnknown,
    Storage(String),
    ShuttingDown,
    Refused(String),
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum AdminRefusalDto {
    NoLeader,
    NotLeader { hint: Option<u64> },
    Refused(String),
    OutcomeUnknown,
    Io(String),
    ShuttingDown,
    NoSuchMember(String),
}

#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum Response {
    Pong,
    AppendOk,
    AppendPartial(Option<LogIdDto>),
    AppendConflict,
    HigherVote(VoteDto),
    Vote {
        vote: VoteDto,
        granted: bool,
        last: Option<LogIdDto>,
    },
    Transferred,
    TransferRefused(String),
    SnapshotReady,
    SnapshotInstalled {
        vote: VoteDto,
    },
    Proposed {
        index: u64,
        term: u64,
        reply: Vec<u8>,
    },
    ProposeRefused(ProposeRefusalDto),
    ReadIndex {
        index: u64,
    },
    ReadRefused,
    App {
        body: Vec<u8>,
    },
    AppRefused(String),
    AdminDone,
    AdminRefused(AdminRefusalDto),
    Failed(String),
    Busy,
    Confirmed(ConfirmedDto),
    /// Nothing was done, because the peer was never a member according to the committed membership.
    NotMember(String),
    /// Nothing was done, because the peer was removed.
    Removed(String),
    AppliedIndex {
        applied: u64,
    },
    Membership {
        index: u64,
        membership: MembershipDto,
    },
    /// Answers `VoteWithAge`. `accepted_us` is the time since the voter may last have accepted a request of any
    /// leader, in microseconds; `None` if it never has.
    VoteWithAge {
        vote: VoteDto,
        granted: bool,
        last: Option<LogIdDto>,
        accepted_us: Option<u64>,
    },
    /// Answers `Suspect`.
    Suspects(bool),
}
impl Body for Response {
    const KIND: Kind = Kind::Response;
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
