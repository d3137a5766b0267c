//! The limit on changes by one user whose audit records are kept for long.

use maxine_actors::registry::RegistrySettings;
use maxine_actors::{WriteError, WriteRequest};
use maxine_state::{Actor, Command, Name, RuntimeConfig};

use crate::contract;
use crate::files::{Local, OneDirectory};
use crate::node::caller;
use crate::renewals::{Stack, on_a_system};

/// Regression: an operator's token replaced all 5,000 records of a class within three seconds.
#[test]
fn a_user_makes_only_so_many_changes_at_once_and_neither_refused_ones_nor_those_of_others_count() {
    let local = Local(OneDirectory::new(1 << 30), parking_lot::Mutex::default());
    on_a_system(async {
        let node = contract::nodes(&local).await.into_iter().next().expect("a node");
        let settings = RegistrySettings { changes_at_once_max: 3, ..RegistrySettings::default() };
        let mut stack = Stack::with(node, settings);
        stack.has_duties().await;
        let propose = async |user: &str, command: Command| {
            let actor = Actor { user: user.into(), ..caller() };
            let (request_id, fence, answer_by_ms) = (None, None, None);
            let request = WriteRequest { actor, request_id, fence, answer_by_ms, command };
            stack.registry.propose(request).await
        };
        let change =
            || Command::PutConfig { config: RuntimeConfig::default(), expected_revision: None };
        for _ in 0..10 {
            let refused = propose("ada", Command::DeleteToken { id: Name::trusted("none") }).await;
            assert!(matches!(refused, Err(WriteError::Rejected { .. })), "{refused:?}");
        }
        let mut accepted = 0;
        let refused = loop {
            match propose("ada", change()).await {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
            assert!(accepted < 100, "there is no limit");
        };
        assert!(accepted >= 3, "{accepted}");
        let WriteError::TooManyChanges { retry_after_s } = refused else { panic!("{refused}") };
        assert!((1..=2).contains(&retry_after_s), "{retry_after_s}");
        for other in ["bob", "token:ci"] {
            assert!(propose(other, change()).await.is_ok(), "{other}");
        }
        // In an emergency nobody waits, and Maxine itself never does.
        for unlimited in ["break-glass:node-1", "system:upgrade"] {
            for _ in 0..10 {
                assert!(propose(unlimited, change()).await.is_ok(), "{unlimited}");
            }
        }
        stack.stop().await;
    });
}
