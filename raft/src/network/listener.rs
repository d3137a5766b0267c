//! Accepts connections from peers and passes their requests to [`Inbound`].
//!
//! Each connection has one reader and one writer. Appends keep their order. A snapshot is received by its own
//! connection. Other requests are answered concurrently, up to a limit; beyond it the peer gets the answer
//! that this node is busy.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use maxine_admission::StepTurns;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::greetings::Greetings;
use super::handshake::{self, HANDSHAKE_TIMEOUT, HandshakeResult, Reader, Writer};
use super::inbound::Inbound;
use super::places::Places;
use super::refusal;
use super::snapshot_receiver::SnapshotReceiver;
use super::wire::put_frame;
use crate::clock;
use crate::codec::{self, Channel, Request, Response};
use crate::config::NodeId;

/// Maximum number of connections of members. If there is one more, the oldest connection of the member with
/// the most is closed.
const MEMBER_CONNECTIONS_MAX: usize = 256;
/// Maximum number of connections of nodes that are no members, as far as this node knows. They have places of
/// their own, so they cannot keep a member out. A leader that this node does not know yet is such a node, so
/// the same rule holds among them: the oldest connection of the node with the most is closed.
const STRANGER_CONNECTIONS_MAX: usize = 32;
/// Minimum interval between two log lines about refused connections, because anyone can cause one.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(10);
/// Maximum number of concurrent requests of one connection.
const REQUESTS_MAX: usize = 4_096;
/// Maximum number of appends of one connection that wait for their disk write.
const APPENDS_MAX: usize = 256;
/// Maximum time without data. A peer with nothing to send pings, so a longer silence means that it is gone.
const IDLE_MAX: Duration = Duration::from_secs(15);
const WRITE_BYTES_MAX: usize = 256 * 1024;

type Answers = mpsc::Sender<(u64, Response)>;

pub(crate) struct Listener {
    inbound: Arc<Inbound>,
    stop: CancellationToken,
    tasks: TaskTracker,
    refused: Mutex<Refused>,
    members: Mutex<Places<NodeId>>,
    strangers: Mutex<Places<NodeId>>,
    greetings: Greetings,
    /// Turns for TLS handshakes of connections that do not come from the address of a member.
    handshakes: StepTurns,
}

/// Connections that were refused.
#[derive(Debug, Default)]
struct Refused {
    since_logged: u64,
    logged_at: Option<Instant>,
}

impl Listener {
    pub(crate) fn new(inbound: Inbound, stop: CancellationToken, tasks: TaskTracker) -> Self {
        Self {
            greetings: Greetings::new(inbound.context().me.roster.clone()),
            inbound: Arc::new(inbound),
            stop,
            tasks,
            refused: Mutex::default(),
            members: Mutex::new(Places::new(MEMBER_CONNECTIONS_MAX)),
            strangers: Mutex::new(Places::new(STRANGER_CONNECTIONS_MAX)),
            handshakes: StepTurns::for_this_machine(),
        }
    }

    pub(crate) async fn run(self: Arc<Self>, tcp: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = tcp.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // The place is taken here, so that the number of tasks is bounded, too.
            let silent = self.greetings.silent(from.ip(), &self.stop);
            let listener = self.clone();
            self.tasks.spawn(async move {
                if let Some(greeted) = listener.receive(stream, from.ip(), silent).await {
                    listener.admit(greeted);
                }
            });
        }
    }

    /// Waits for the first byte of a connection, and then for its greeting. `None` if there is none, if the
    /// peer is refused, or if the connection has lost its place.
    async fn receive(
        &self,
        stream: TcpStream,
        from: IpAddr,
        silent: CancellationToken,
    ) -> Option<(Reader, Writer, HandshakeResult)> {
        let freed = silent.clone().drop_guard();
        let first_byte = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.readable());
        silent.run_until_cancelled(first_byte).await?.ok()?.ok()?;
        let place = self.greetings.begun(from, &self.stop);
        drop(freed);
        let _freed = place.clone().drop_guard();
        let greeted = place.run_until_cancelled(self.greet(stream, from)).await??;
        if greeted.2.unbelieved.is_none() {
            self.greetings.finished(greeted.2.node_id, from);
        }
        Some(greeted)
    }

    /// Serves a connection that was greeted, until it ends or its place is taken back.
    fn admit(self: Arc<Self>, greeted: (Reader, Writer, HandshakeResult)) {
        let peer = &greeted.2;
        let (places, max) = match peer.unbelieved {
            None => (&self.members, MEMBER_CONNECTIONS_MAX),
            Some(_) => (&self.strangers, STRANGER_CONNECTIONS_MAX),
        };
        let (place, lost_by) = places.lock().take(peer.node_id, &self.stop);
        if let Some(node) = lost_by {
            let reason =
                format!("node {node} has the most of {max} connections; its oldest was closed");
            self.log_refusal(&format_args!("node {node}"), &std::io::Error::other(reason));
        }
        let listener = self.clone();
        self.tasks.spawn(async move {
            let _freed = place.clone().drop_guard();
            let _ended = place.run_until_cancelled(listener.serve(greeted)).await;
        });
    }

    /// Receives the greeting of a connection; `None` if there is none, or the peer is refused.
    async fn greet(
        &self,
        stream: TcpStream,
        from: IpAddr,
    ) -> Option<(Reader, Writer, HandshakeResult)> {
        let context = self.inbound.context();
        let greeting = async {
            stream.set_nodelay(true)?;
            let handshake = Box::pin(context.transport.accept(stream));
            let (stream, certificate) = match self.greetings.stranger(from) {
                Some(network) => self.handshakes.run(network, handshake).await?,
                None => handshake.await?,
            };
            let believes = |peer| self.inbound.believes(peer);
            handshake::receive(&context.me, stream, certificate, context.frame_len_max, believes)
                .await
        };
        match tokio::time::timeout(2 * HANDSHAKE_TIMEOUT, greeting).await {
            Ok(Ok(greeted)) => Some(greeted),
            // Nobody refused anybody. After a pause of this process, its peers have given up many connections.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                tracing::debug!(%from, "the other side closed a connection before it said who it is");
                None
            }
            Ok(Err(error)) => {
                self.log_refusal(&from, &error);
                None
            }
            Err(_) => None,
        }
    }

    /// Logs that a connection from `from` failed or was closed, with the number of such connections since the last such
    /// line.
    fn log_refusal(&self, from: &dyn std::fmt::Display, error: &std::io::Error) {
        let mut refused = self.refused.lock();
        refused.since_logged += 1;
        if refused.logged_at.is_none_or(|at| clock::since(at) >= REFUSALS_LOGGED_EVERY) {
            let connections = std::mem::take(&mut refused.since_logged);
            refused.logged_at = Some(clock::now());
            let meaning = refusal::meaning(error).unwrap_or(
                "a connection to this node's peer port (raft.listen) failed or was closed",
            );
            tracing::warn!(
                %from,
                %error,
                connections,
                "{meaning} (this is the last of the connections that failed since the last such line)"
            );
        }
    }

    async fn serve(&self, (reader, writer, mut peer): (Reader, Writer, HandshakeResult)) {
        let context = self.inbound.context();
        if peer.unbelieved.is_none() {
            context.contacts.connected(peer.node_id, peer.app_version, peer.protocol);
        }
        let is_believed = peer.unbelieved.is_none();
        let _open = is_believed.then(|| context.contacts.open(peer.node_id));
        let (answers, outgoing) = mpsc::channel(REQUESTS_MAX);
        let writing = write_answers(writer, outgoing);
        let reading = async {
            let (from, channel) = (peer.node_id, peer.channel);
            let ended = match channel {
                Channel::Append => self.serve_appends(reader, &mut peer, answers).await,
                Channel::Snapshot => self.serve_snapshots(reader, &mut peer, answers).await,
                Channel::Control | Channel::App => {
                    self.serve_concurrently(reader, &mut peer, answers).await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(from, ?channel, %error, "peer connection ended");
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    }

    async fn next_request(
        &self,
        reader: &mut Reader,
        peer: &mut HandshakeResult,
    ) -> std::io::Result<Option<(u64, Request)>> {
        let from = peer.node_id;
        let Ok(frame) = tokio::time::timeout(IDLE_MAX, reader.next()).await else {
            return Err(std::io::ErrorKind::TimedOut.into());
        };
        let Some((id, body)) = frame? else {
            return Ok(None);
        };
        let context = self.inbound.context();
        if let Some(unbelieved) = peer.unbelieved.take_if(|_| self.inbound.believes(from)) {
            handshake::believe(&context.me, from, unbelieved).await?;
            context.contacts.connected(from, peer.app_version, peer.protocol);
        }
        context.contacts.heard(from);
        Ok(Some((id, codec::decode(&body)?)))
    }

    async fn serve_concurrently(
        &self,
        mut reader: Reader,
        peer: &mut HandshakeResult,
        answers: Answers,
    ) -> std::io::Result<()> {
        let from = peer.node_id;
        let places = Arc::new(Semaphore::new(REQUESTS_MAX));
        // Ends with the connection, together with all work for this peer.
        let tasks = TaskTracker::new();
        let gone = self.stop.child_token();
        let _guard = gone.clone().drop_guard();
        while let Some((id, request)) = self.next_request(&mut reader, peer).await? {
            if request == Request::Ping {
                let _ = answers.send((id, self.inbound.pong(from))).await;
                continue;
            }
            let Ok(place) = places.clone().try_acquire_owned() else {
                let _ = answers.send((id, Response::Busy)).await;
                continue;
            };
            let (inbound, answers, gone) = (self.inbound.clone(), answers.clone(), gone.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = gone.cancelled() => {}
                    response = inbound.answer(from, request) => { let _ = answers.send((id, response)).await; }
                }
                drop(place);
            });
        }
        Ok(())
    }

    async fn serve_appends(
        &self,
        mut reader: Reader,
        peer: &mut HandshakeResult,
        answers: Answers,
    ) -> std::io::Result<()> {
        let from = peer.node_id;
        let mut waiting = FuturesOrdered::new();
        loop {
            tokio::select! {
                Some((id, response)) = waiting.next(), if !waiting.is_empty() => {
                    let _ = answers.send((id, response)).await;
                }
                request = self.next_request(&mut reader, peer), if waiting.len() < APPENDS_MAX => {
                    let Some((id, request)) = request? else {
                        return Ok(());
                    };
                    if request == Request::Ping {
                        let _ = answers.send((id, self.inbound.pong(from))).await;
                        continue;
                    }
                    let inbound = self.inbound.clone();
                    let mut answering = Box::pin(async move { (id, inbound.answer(from, request).await) });
                    // The first poll passes the entries to the core, so that they keep their order.
                    match futures::poll!(&mut answering) {
                        std::task::Poll::Ready(answer) if waiting.is_empty() => { let _ = answers.send(answer).await; }
                        std::task::Poll::Ready(answer) => waiting.push_back(futures::future::Either::Left(std::future::ready(answer))),
                        std::task::Poll::Pending => waiting.push_back(futures::future::Either::Right(answering)),
                    }
                }
            }
        }
    }

    async fn serve_snapshots(
        &self,
        mut reader: Reader,
        peer: &mut HandshakeResult,
        answers: Answers,
    ) -> std::io::Result<()> {
        let from = peer.node_id;
        let mut receiver = SnapshotReceiver::new(self.inbound.clone(), from);
        while let Some((id, request)) = self.next_request(&mut reader, peer).await? {
            let response = match request {
                Request::Ping => self.inbound.pong(from),
                request => {
                    // While the snapshot is verified and installed, the peer still gets answers to its pings.
                    let mut receiving = std::pin::pin!(receiver.receive(request));
                    loop {
                        tokio::select! {
                            response = &mut receiving => break response,
                            other = self.next_request(&mut reader, peer) => match other? {
                                Some((ping, Request::Ping)) => { let _ = answers.send((ping, self.inbound.pong(from))).await; }
                                Some((early, _)) => { let _ = answers.send((early, Response::Busy)).await; }
                                None => return Ok(()),
                            },
                        }
                    }
                }
            };
            let _ = answers.send((id, response)).await;
        }
        Ok(())
    }
}

async fn write_answers(mut writer: Writer, mut outgoing: mpsc::Receiver<(u64, Response)>) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    while let Some((id, response)) = outgoing.recv().await {
        put_frame(id, &response, &mut buffer);
        while buffer.len() < WRITE_BYTES_MAX {
            match outgoing.try_recv() {
                Ok((id, response)) => put_frame(id, &response, &mut buffer),
                Err(_) => break,
            }
        }
        let write = async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        };
        match tokio::time::timeout(IDLE_MAX, write).await {
            Ok(Ok(())) => buffer.clear(),
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
