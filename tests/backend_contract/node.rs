//! A node for the tests: a store, its view, and helper functions for both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use maxine_actors::peer::PeerRouter;
use maxine_state::{
    Actor, Address, Applied, Batch, Command, Deregistration, Fence, History, InstanceKey, Name,
    Proposal, Registration, Rejection, Reply, RequestId, ServiceKey, StateDigest,
};
use maxine_store::{ControlStore, PeerHandler, ProposeError};
use maxine_view::View;

/// How long a test waits for something that must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Answers a text with its name and that text, and passes everything else to the router.
pub(crate) struct Peers {
    name: String,
    pub(crate) router: Arc<PeerRouter>,
}

impl Peers {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), router: PeerRouter::new() }
    }
}

impl PeerHandler for Peers {
    fn handle(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        if body.first().is_some_and(|kind| !kind.is_ascii_graphic()) {
            return self.router.handle(body);
        }
        let answer = format!("{} heard {}", self.name, String::from_utf8_lossy(&body));
        Box::pin(async move { Ok(answer.into()) })
    }
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn ControlStore>,
    pub(crate) view: Arc<View>,
    /// Receives messages for the node's actors, if a test starts any.
    pub(crate) router: Arc<PeerRouter>,
}

/// Something on which nodes can be started.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// Starts a node. If there can be only one, returns the running one.
    async fn start(&self, name: &str) -> Node;
    /// Maximum number of nodes.
    fn nodes_max(&self) -> usize {
        3
    }
    /// Whether the log is trimmed so early that a watcher may have to start again.
    fn trims(&self) -> bool {
        false
    }
}

pub(crate) fn service(name: &str) -> ServiceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted(name))
}

pub(crate) fn instance(service_name: &str, id: &str) -> InstanceKey {
    service(service_name).instance(Name::trusted(id))
}

pub(crate) fn register(service_name: &str, id: &str, port: u16) -> Command {
    let address = Address::parse(&format!("http://10.0.0.1:{port}")).expect("an address");
    let registration = Registration::new(Name::trusted(id), address, 10_000);
    Command::Register { items: vec![(service(service_name), registration)] }
}

pub(crate) fn deregister(service_name: &str, id: &str) -> Command {
    let key = instance(service_name, id);
    let item = Deregistration { key, lease_epoch: None, forget_drain: false };
    Command::Deregister { items: vec![item] }
}

/// The actor of a change. It is a user, because a node does not forward commands that claim to be from a part
/// of Maxine.
pub(crate) fn caller() -> Actor {
    Actor {
        user: "tester".into(),
        address: "127.0.0.1".into(),
        trace_id: "test".into(),
        via_node: None,
    }
}

pub(crate) fn proposal(command: Command) -> Proposal {
    Proposal {
        request_id: RequestId(rand::random()),
        proposed_at_ms: 1_795_440_000_000,
        fence: None,
        actor: caller(),
        command,
    }
}

pub(crate) fn batch(command: Command) -> Batch {
    Batch { proposals: vec![proposal(command)] }
}

impl Node {
    /// Begins the history, and another one if indexes are used again.
    pub(crate) fn keep_history(&self) -> tokio::task::JoinHandle<()> {
        let (store, view) = (Arc::clone(&self.store), Arc::clone(&self.view));
        tokio::spawn(maxine_actors::history::keep(store, view, maxine_clock::Clock::system()))
    }

    /// The history of the node. Begins one if there is none.
    pub(crate) async fn founded(&self) -> History {
        let keeper = self.keep_history();
        let history = async || self.view.snapshot().state.history();
        let history = eventually("it has a history", history).await;
        keeper.abort();
        history
    }

    /// Proposes once.
    pub(crate) async fn try_propose(&self, command: Command) -> Result<Applied, ProposeError> {
        let answers = self.store.propose(batch(command), Duration::from_secs(5).into()).await?;
        Ok(answers.into_iter().next().expect("one answer per proposal"))
    }

    /// Proposes, and repeats that with the same request id where it is safe, as the registry does.
    pub(crate) async fn propose(&self, command: Command) -> Applied {
        self.propose_as(proposal(command)).await
    }

    pub(crate) async fn propose_as(&self, proposal: Proposal) -> Applied {
        let batch = Batch { proposals: vec![proposal] };
        eventually("the proposal is answered", async || {
            let answer = self.store.propose(batch.clone(), Duration::from_secs(5).into()).await;
            answer.ok().and_then(|answers| answers.into_iter().next())
        })
        .await
    }

    pub(crate) async fn register(&self, service_name: &str, id: &str, port: u16) -> u64 {
        match self.propose(register(service_name, id, port)).await.reply {
            Reply::Registered(items) => *items[0].as_ref().expect("a valid registration"),
            other => panic!("not a registration's answer: {other:?}"),
        }
    }

    pub(crate) async fn expire(&self, fence: Fence, item: (InstanceKey, u64)) -> Reply {
        let command = Command::Expire { items: vec![item] };
        let proposal = Proposal { fence: Some(fence), ..proposal(command) };
        self.propose_as(proposal).await.reply
    }

    /// Expires once, and returns the outcome.
    pub(crate) async fn try_expire(
        &self,
        fence: Fence,
        item: (InstanceKey, u64),
    ) -> Result<Reply, ProposeError> {
        let command = Command::Expire { items: vec![item] };
        let proposal = Proposal { fence: Some(fence), ..proposal(command) };
        let batch = Batch { proposals: vec![proposal] };
        let answers = self.store.propose(batch, Duration::from_secs(5).into()).await?;
        Ok(answers[0].reply.clone())
    }

    /// Waits until this node leads, and takes the duties.
    pub(crate) async fn take_duties(&self) -> Fence {
        self.leads().await;
        let holder = Name::trusted(&self.name);
        match self.propose(Command::GrantLeadership { holder }).await.reply {
            Reply::Granted(fence) => fence,
            other => panic!("no grant: {other:?}"),
        }
    }

    pub(crate) async fn leads(&self) {
        eventually("the node leads", async || self.is_leader().then_some(())).await;
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.store.leadership_now().is_leader
    }

    pub(crate) fn has(&self, service_name: &str, id: &str) -> bool {
        let snapshot = self.view.snapshot();
        let service = snapshot.state.service(&service(service_name));
        service.is_some_and(|service| service.instances.contains_key(&Name::trusted(id)))
    }

    pub(crate) fn digest(&self) -> StateDigest {
        self.view.snapshot().state.digest()
    }

    pub(crate) async fn reaches(&self, index: u64) {
        self.view.wait_for(index, SOON).await.expect("the node catches up");
    }
}

/// Waits until exactly one node leads, and returns it.
pub(crate) async fn leader(nodes: &[Node]) -> Node {
    eventually("one node leads", async || {
        let leaders: Vec<&Node> = nodes.iter().filter(|node| node.is_leader()).collect();
        assert!(leaders.len() <= 1, "two leaders at once");
        leaders.first().map(|node| Node::clone(node))
    })
    .await
}

/// Asks until there is an answer. Fails the test if there is none in time.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

pub(crate) fn is_stale_fence(reply: &Reply) -> bool {
    matches!(reply, Reply::Rejected(Rejection::StaleFence { .. }))
}
