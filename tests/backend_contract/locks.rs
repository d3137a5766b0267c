//! Lock sessions on each backend: a renewed session holds its lock, a silent one frees it, and the lock delay is kept.

use std::time::Duration;

use maxine_actors::WriteRequest;
use maxine_state::{
    Command, KvAction, KvKey, KvOp, KvRefusal, LockBehavior, LockSessionId, LockSessionSpec, Reply,
    STATE_VERSION,
};

use crate::contract;
use crate::files::{Local, OneDirectory, Shared};
use crate::node::{Fixture, caller, eventually};
use crate::raft::ThreeDisks;
use crate::redis_server::{OneServer, RedisServer};
use crate::renewals::{Stack, on_a_system};

const TTL_MS: u64 = 2_000;

impl Stack {
    async fn write(&self, command: Command) -> Reply {
        eventually("the write is acknowledged", async || {
            let request = WriteRequest {
                actor: caller(),
                request_id: None,
                fence: None,
                answer_by_ms: None,
                command: command.clone(),
            };
            self.registry.propose(request).await.ok().map(|applied| applied.reply)
        })
        .await
    }

    async fn session(&self, ttl_ms: Option<u64>) -> LockSessionId {
        let id = self.registry.new_lock_session_id();
        let spec = LockSessionSpec {
            name: "".into(),
            node: "".into(),
            ttl_ms,
            behavior: LockBehavior::Release,
            lock_delay_ms: 800,
            checks: Vec::new(),
        };
        let reply = self.write(Command::CreateLockSession { id, spec }).await;
        assert!(matches!(reply, Reply::Revision(_)), "{reply:?}");
        id
    }

    /// Tries to take the lock. Returns the fencing token, or why it is refused.
    async fn lock(&self, session: LockSessionId) -> Result<u64, KvRefusal> {
        let action = KvAction::Lock { content: None, session };
        let ops = vec![KvOp { key: KvKey::parse("lock").expect("a key"), action }];
        match self.write(Command::ChangeKv { ops }).await {
            Reply::Kv(metas) => Ok(metas[0].expect("it was locked").lock_index),
            Reply::KvRefused { why, .. } => Err(why),
            other => panic!("{other:?}"),
        }
    }

    async fn renewed(&self, session: LockSessionId) -> bool {
        eventually("the renewal is answered", async || {
            self.registry.renew_lock_session(session, None).await.ok()
        })
        .await
    }
}

async fn a_silent_session_frees_its_lock(fixture: &dyn Fixture) {
    let nodes = contract::nodes(fixture).await;
    let stacks: Vec<Stack> = nodes.into_iter().map(Stack::on).collect();
    let (first, last) = (&stacks[0], &stacks[stacks.len() - 1]);
    first.write(Command::RaiseStateVersion { to: STATE_VERSION }).await;
    // The other node must know the version before it accepts commands that need it.
    last.node.reaches(first.node.view.index()).await;
    let one = first.session(Some(TTL_MS)).await;
    let two = last.session(None).await;
    let first_token = first.lock(one).await.expect("nobody holds it");
    assert_eq!(last.lock(two).await, Err(KvRefusal::Held { by: one }));
    // Renewals through another node keep it for longer than its time to live, and enter no log.
    for _ in 0..8 {
        assert!(last.renewed(one).await, "it was acknowledged each time");
        tokio::time::sleep(Duration::from_millis(TTL_MS / 5)).await;
    }
    assert_eq!(last.lock(two).await, Err(KvRefusal::Held { by: one }));
    let mut was_delayed = false;
    let token = eventually("the lock is free", async || match last.lock(two).await {
        Ok(token) => Some(token),
        Err(why) => {
            was_delayed |= why == KvRefusal::Delayed;
            None
        }
    })
    .await;
    assert!(was_delayed, "nobody gets it during the lock delay");
    assert!(token > first_token, "{token} is not above {first_token}");
    assert!(!first.renewed(one).await, "it has ended");
    let nodes: Vec<_> = stacks.iter().map(|stack| stack.node.clone()).collect();
    contract::agree(&nodes).await;
    for stack in stacks {
        stack.stop().await;
    }
}

#[test]
fn a_silent_session_frees_its_lock_on_a_local_log() {
    let local = Local(OneDirectory::new(1 << 30), parking_lot::Mutex::default());
    on_a_system(async { a_silent_session_frees_its_lock(&local).await });
}

#[test]
fn a_silent_session_frees_its_lock_on_a_shared_log() {
    on_a_system(async {
        a_silent_session_frees_its_lock(&Shared(OneDirectory::new(1 << 30))).await;
    });
}

#[test]
fn a_silent_session_frees_its_lock_on_redis() {
    on_a_system(async {
        let server = RedisServer::start().await;
        let fixture = OneServer { server, snapshot_every_entries: 1_000_000, keep_entries: 1_000 };
        a_silent_session_frees_its_lock(&fixture).await;
    });
}

#[test]
fn a_silent_session_frees_its_lock_on_raft() {
    on_a_system(async { a_silent_session_frees_its_lock(&ThreeDisks::new()).await });
}
