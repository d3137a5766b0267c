//! The first exchange on every connection: each side says who it is, and what the connection is for.
//!
//! A peer is refused, with the reason, if it belongs to another cluster or another line of history, looks for
//! another node, or uses an unknown protocol version. A peer that returned with another data directory, or
//! that does not understand the log, is refused too, and then stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use super::contacts::Introduction;
use super::tls;
use super::wire::{FrameReader, PeerStream, put_frame};
use crate::acknowledged::Acknowledged;
use crate::codec::{self, Body, Channel, DirSeen, DirShown, Hello, HelloDto, Welcome};
use crate::config::NodeId;
use crate::consensus::{self, LogId};
use crate::exclusion::{Refusals, removal_of};
use crate::roster::{MembershipStatus, Roster};
use crate::storage::node_dir::NodeDir;

/// Protocol versions of this program. Builds before the first release used 1 to 3. Version 5 has votes with an age,
/// and questions about a leader whose process is gone.
const PROTOCOL_MIN: u16 = 4;
const PROTOCOL_MAX: u16 = 5;
/// The first protocol version in which a leader may be elected before the leases of the voters have run out.
pub(crate) const PROTOCOL_OF_EARLY_ELECTIONS: u16 = 5;
/// Time limit for opening, encrypting and greeting a connection.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// The identity of this node, and what it needs to check others.
pub(crate) struct LocalIdentity {
    pub(crate) cluster_id: String,
    pub(crate) node_id: NodeId,
    pub(crate) app_version: u32,
    pub(crate) introduction: Introduction,
    pub(crate) dir: Arc<NodeDir>,
    /// How far nodes are known to have acknowledged the log.
    pub(crate) acknowledged: Arc<Acknowledged>,
    /// The end of this node's log, and the term of its vote.
    pub(crate) log_end: Box<dyn Fn() -> (Option<LogId>, u64) + Send + Sync>,
    /// The members of the cluster.
    pub(crate) roster: Arc<Roster>,
    /// The reasons that members gave when they refused this node.
    pub(crate) refusals: Refusals,
    /// Whether a node that understands commands up to this version may take part; an error is the reason.
    pub(crate) admit_version: Box<dyn Fn(u32) -> Result<(), String> + Send + Sync>,
    /// Whether nothing was ever stored here, so that the node may join any line of history.
    pub(crate) is_pristine: Box<dyn Fn() -> bool + Send + Sync>,
    /// Stops this node, with the reason.
    pub(crate) stop_for: Box<dyn Fn(&str) + Send + Sync>,
}

pub(crate) type Reader = FrameReader<ReadHalf<Box<dyn PeerStream>>>;
pub(crate) type Writer = WriteHalf<Box<dyn PeerStream>>;

/// The result of a finished handshake.
pub(crate) struct HandshakeResult {
    pub(crate) node_id: NodeId,
    pub(crate) app_version: u32,
    /// The newest protocol version that both sides understand.
    pub(crate) protocol: u16,
    pub(crate) channel: Channel,
    /// The name and address that the other side gave, if this node greeted it.
    pub(crate) introduction: Introduction,
    /// What the other side said while it was no member. `None` if this node believes it.
    pub(crate) unbelieved: Option<Unbelieved>,
}

/// What a node that is no member said in the greeting. It has an effect only if the node becomes a member, as
/// far as this node knows.
pub(crate) struct Unbelieved {
    dir_id: u64,
    acknowledged: Option<LogId>,
    term: u64,
}

impl LocalIdentity {
    fn shown(&self) -> DirShown {
        let (last, _) = (self.log_end)();
        DirShown { dir_id: self.dir.dir_id(), last: last.as_ref().map(consensus::log_id_to_dto) }
    }
}

fn refused(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason.into())
}

/// Greets `target` on a connection that this node opened.
pub(crate) async fn greet(
    me: &LocalIdentity,
    stream: Box<dyn PeerStream>,
    target: NodeId,
    channel: Channel,
    frame_len_max: usize,
) -> io::Result<(Reader, Writer, HandshakeResult)> {
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, frame_len_max);
    let hello = Hello::V1(HelloDto {
        cluster_id: me.cluster_id.clone(),
        lineage: me.dir.lineage(),
        node_id: me.node_id,
        target_id: target,
        channel,
        app_version: me.app_version,
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
    });
    send(&mut write, &hello).await?;
    let (_, answer) = reader.next().await?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("node {target} closed the connection instead of greeting"),
        )
    })?;
    match codec::decode(&answer)? {
        Welcome::Refused { reason } => Err(refused(format!("refused by node {target}: {reason}"))),
        Welcome::Removed { reason } => {
            me.refusals.removed(&reason);
            Err(refused(format!("refused by node {target}: {reason}")))
        }
        Welcome::OtherHistory { reason } => {
            me.refusals.other_history(target, &reason);
            Err(refused(format!("refused by node {target}: {reason}")))
        }
        Welcome::TooOld { reason } => {
            (me.stop_for)(&reason);
            Err(refused(format!("refused by node {target}: {reason}")))
        }
        Welcome::Accepted { node_id, .. } if node_id != target => {
            Err(refused(format!("node {node_id} answered in place of node {target}")))
        }
        Welcome::Accepted { lineage, .. } if lineage != me.dir.lineage() => Err(refused(format!(
            "node {target} has lineage {lineage:016x}, and node {} has {:016x}",
            me.node_id,
            me.dir.lineage()
        ))),
        Welcome::Accepted { node_id, app_version, protocol, name, http_addr, .. } => {
            me.refusals.accepted(target);
            show_dir(me, target, &mut reader, &mut write).await?;
            let greeted = HandshakeResult {
                node_id,
                app_version,
                protocol: protocol.min(PROTOCOL_MAX),
                channel,
                introduction: Introduction { name, http_addr },
                unbelieved: None,
            };
            Ok((reader, write, greeted))
        }
    }
}

/// Receives the greeting on a connection that a peer opened. `believes` tells whether this node believes what
/// a peer says: a certificate of the cluster alone makes no member.
pub(crate) async fn receive(
    me: &LocalIdentity,
    stream: Box<dyn PeerStream>,
    certificate: Option<CertificateDer<'static>>,
    frame_len_max: usize,
    believes: impl Fn(NodeId) -> bool,
) -> io::Result<(Reader, Writer, HandshakeResult)> {
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, frame_len_max);
    let (_, bytes) = reader
        .next()
        .await?
        .ok_or_else(|| refused("the peer closed the connection before greeting"))?;
    let Hello::V1(hello) = codec::decode(&bytes)?;
    let before = me.acknowledged.of(hello.node_id);
    let verdict = judge(me, &hello, certificate.as_ref()).await;
    let answer = match &verdict {
        Ok(()) => Welcome::Accepted {
            node_id: me.node_id,
            app_version: me.app_version,
            protocol: PROTOCOL_MAX.min(hello.protocol_max),
            lineage: me.dir.lineage(),
            name: me.introduction.name.clone(),
            http_addr: me.introduction.http_addr.clone(),
        },
        Err(refusal) => refusal.to_welcome(),
    };
    send(&mut write, &answer).await?;
    if let Err(refusal) = verdict {
        return Err(refused(format!(
            "this node refused node {}: {}",
            hello.node_id,
            refusal.reason()
        )));
    }
    let unbelieved = if believes(hello.node_id) {
        see_dir(me, hello.node_id, before, &mut reader, &mut write).await?;
        None
    } else {
        Some(hear(me, hello.node_id, before, &mut reader, &mut write).await?)
    };
    let HelloDto { node_id, app_version, protocol_max, channel, .. } = hello;
    let greeted = HandshakeResult {
        node_id,
        app_version,
        protocol: protocol_max.min(PROTOCOL_MAX),
        channel,
        introduction: Introduction::default(),
        unbelieved,
    };
    Ok((reader, write, greeted))
}

/// Sends this node's directory id to `target`, and checks the other's.
async fn show_dir(
    me: &LocalIdentity,
    target: NodeId,
    reader: &mut Reader,
    write: &mut Writer,
) -> io::Result<()> {
    let before = me.acknowledged.of(target);
    send(write, &me.shown()).await?;
    let theirs = recognised(me, target, reader).await?;
    // This node connects to it, so it is a member or is becoming one.
    recognise(me, target, theirs, before, write).await
}

/// Checks the directory of `peer`, which greeted, and sends this node's directory id.
async fn see_dir(
    me: &LocalIdentity,
    peer: NodeId,
    before: Option<LogId>,
    reader: &mut Reader,
    write: &mut Writer,
) -> io::Result<()> {
    let shown: DirShown = codec::decode(&frame(reader).await?)?;
    recognise(me, peer, shown, before, write).await?;
    recognised(me, peer, reader).await?;
    Ok(())
}

/// Exchanges directory ids with a peer that is no member, and returns what the peer said. Nothing that it
/// says has an effect on this node: the peer cannot stop this node, make it wait for lost entries, or block
/// its own id for a node that will be added.
async fn hear(
    me: &LocalIdentity,
    peer: NodeId,
    before: Option<LogId>,
    reader: &mut Reader,
    write: &mut Writer,
) -> io::Result<Unbelieved> {
    let DirShown { dir_id, .. } = codec::decode(&frame(reader).await?)?;
    if !me.dir.matches_or_is_new(peer, dir_id) {
        return Err(other_dir(peer, write).await);
    }
    send(write, &known(me, before)).await?;
    match codec::decode(&frame(reader).await?)? {
        DirSeen::Known { acknowledged, term, .. } => {
            let acknowledged = acknowledged.map(consensus::log_id_from_dto);
            Ok(Unbelieved { dir_id, acknowledged, term })
        }
        DirSeen::Replaced => Err(refused(format!(
            "node {peer} knows this node with another data directory, but is no member: it is not believed"
        ))),
    }
}

/// Believes what `peer` said before this node knew it as a member. Fails if its id has been recorded with
/// another directory since.
pub(crate) async fn believe(
    me: &LocalIdentity,
    peer: NodeId,
    Unbelieved { dir_id, acknowledged, term }: Unbelieved,
) -> io::Result<()> {
    if !meets(me, peer, dir_id).await? {
        return Err(refused(format!("node {peer} became a member with another data directory")));
    }
    note_report(me, peer, acknowledged, term);
    Ok(())
}

/// Whether `peer` has the directory with which it was first met.
async fn meets(me: &LocalIdentity, peer: NodeId, dir_id: u64) -> io::Result<bool> {
    let dir = me.dir.clone();
    let meeting = tokio::task::spawn_blocking(move || dir.check_or_record(peer, dir_id));
    meeting.await.map_err(io::Error::other)
}

/// Tells `peer` that it is known with another directory. Returns the reason for closing the connection.
async fn other_dir(peer: NodeId, write: &mut Writer) -> io::Error {
    let told = send(write, &DirSeen::Replaced).await;
    told.err().unwrap_or_else(|| {
        refused(format!(
            "node {peer} came back with another data directory: it must join under a number that was never used"
        ))
    })
}

/// Notes how far this node had acknowledged the log, as `peer` reports it.
fn note_report(me: &LocalIdentity, peer: NodeId, acknowledged: Option<LogId>, term: u64) {
    let (last, _) = (me.log_end)();
    if let Some(acknowledged) = acknowledged.filter(|id| last < Some(*id)) {
        me.acknowledged.note_lost(acknowledged, term);
    }
    me.acknowledged.reported_by(peer);
}

/// Answers `peer` whether it has the directory with which it was first met, and how far it is known to have
/// acknowledged the log. A different directory is an error. If that position is after the end of its log, the
/// leader may send it the missing entries again.
///
/// `before` is how far it was known to have acknowledged the log before it reported the end of its log. What
/// it acknowledged since, on another connection, is no sign of an older copy.
async fn recognise(
    me: &LocalIdentity,
    peer: NodeId,
    DirShown { dir_id, last }: DirShown,
    before: Option<LogId>,
    write: &mut Writer,
) -> io::Result<()> {
    if !meets(me, peer, dir_id).await? {
        return Err(other_dir(peer, write).await);
    }
    if last.map(consensus::log_id_from_dto) < before {
        tracing::error!(
            peer,
            "a node came back with an older copy of its data directory; it is filled again"
        );
        me.acknowledged.allow_refill(peer).await;
    }
    send(write, &known(me, before)).await
}

/// The answer to a peer with the directory that it had before, which is known to have acknowledged the log up
/// to `before`.
fn known(me: &LocalIdentity, before: Option<LogId>) -> DirSeen {
    let acknowledged = before.as_ref().map(consensus::log_id_to_dto);
    let (_, term) = (me.log_end)();
    DirSeen::Known { shown: me.shown(), acknowledged, term }
}

/// Reads what `peer`, which this node believes, reports about this node's directory, and the peer's own
/// directory. Stops this node if its directory is not the one that the peer knows.
async fn recognised(me: &LocalIdentity, peer: NodeId, reader: &mut Reader) -> io::Result<DirShown> {
    match codec::decode(&frame(reader).await?)? {
        DirSeen::Known { shown, acknowledged, term } => {
            note_report(me, peer, acknowledged.map(consensus::log_id_from_dto), term);
            Ok(shown)
        }
        DirSeen::Replaced => {
            let reason = format!(
                "node {peer} knows node {me} with another data directory than {dir}. A new directory cannot replace a lost one, because \
                 it lacks what the lost one had acknowledged: put the old directory back, or add a node with a number that was \
                 never used and remove number {me}",
                me = me.node_id,
                dir = me.dir.path().display(),
            );
            (me.stop_for)(&reason);
            Err(refused(reason))
        }
    }
}

async fn send<B: Body>(write: &mut Writer, body: &B) -> io::Result<()> {
    let mut bytes = Vec::new();
    put_frame(0, body, &mut bytes);
    write.write_all(&bytes).await?;
    write.flush().await
}

async fn frame(reader: &mut Reader) -> io::Result<Bytes> {
    let (_, frame) = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(frame)
}

/// Why a peer is refused.
enum Refusal {
    Other(String),
    Removed(String),
    OtherHistory(String),
    TooOld(String),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

impl Refusal {
    fn reason(&self) -> &str {
        match self {
            Self::Other(reason)
            | Self::Removed(reason)
            | Self::OtherHistory(reason)
            | Self::TooOld(reason) => reason,
        }
    }

    fn to_welcome(&self) -> Welcome {
        let reason = self.reason().to_owned();
        match self {
            Self::Other(_) => Welcome::Refused { reason },
            Self::Removed(_) => Welcome::Removed { reason },
            Self::OtherHistory(_) => Welcome::OtherHistory { reason },
            Self::TooOld(_) => Welcome::TooOld { reason },
        }
    }
}

async fn judge(
    me: &LocalIdentity,
    hello: &HelloDto,
    certificate: Option<&CertificateDer<'static>>,
) -> Result<(), Refusal> {
    if hello.cluster_id != me.cluster_id {
        let reason = format!("this is cluster {:?}, not {:?}", me.cluster_id, hello.cluster_id);
        return Err(reason.into());
    }
    if hello.target_id != me.node_id {
        return Err(format!("this is node {}, not {}", me.node_id, hello.target_id).into());
    }
    if hello.node_id == me.node_id {
        return Err(format!("node id {} is taken by this node", me.node_id).into());
    }
    if hello.protocol_max < PROTOCOL_MIN || hello.protocol_min > PROTOCOL_MAX {
        return Err(Refusal::Other(format!(
            "this node speaks protocols {PROTOCOL_MIN} to {PROTOCOL_MAX}, the peer {} to {}",
            hello.protocol_min, hello.protocol_max
        )));
    }
    if let Some(certificate) = certificate {
        tls::check_name(certificate, &me.cluster_id, hello.node_id).map_err(|reason| {
            format!("the certificate is not that of node {}: {reason}", hello.node_id)
        })?;
    }
    judge_lineage(me, hello).await?;
    if me.roster.status_of(hello.node_id) == MembershipStatus::Removed {
        return Err(Refusal::Removed(removal_of(hello.node_id)));
    }
    (me.admit_version)(hello.app_version).map_err(Refusal::TooOld)
}

async fn judge_lineage(me: &LocalIdentity, hello: &HelloDto) -> Result<(), Refusal> {
    let lineage = me.dir.lineage();
    if hello.lineage == lineage {
        return Ok(());
    }
    if lineage == 0 && (me.is_pristine)() {
        let dir = me.dir.clone();
        let theirs = hello.lineage;
        return match tokio::task::spawn_blocking(move || dir.adopt_lineage(theirs)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot note the lineage: {error}").into()),
            Err(error) => Err(error.to_string().into()),
        };
    }
    // The other node shows this text. So "this node" would be the wrong one there.
    Err(Refusal::OtherHistory(format!(
        "node {} has lineage {lineage:016x}, and node {} has {:016x}: 'maxine cluster recover' or 'restore' began one of them",
        me.node_id, hello.node_id, hello.lineage
    )))
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
