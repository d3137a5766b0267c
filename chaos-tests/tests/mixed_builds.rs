//! Clusters of this build and the next one: upgraded node by node under load, downgraded, and upgraded to the
//! end.
//!
//! `scripts/build-next.sh` builds the next version; `scripts/test.sh` calls it first.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

#[path = "mixed_builds/load.rs"]
mod load;
#[path = "mixed_builds/mixed.rs"]
mod mixed;

use maxine_chaos::cluster::Backend;
use reqwest::Method;
use serde_json::{Value, json};

use mixed::{Mixed, detail};

const NOTE: &str = "/api/v1/cluster/note";
const POLICY: &str = "/api/v1/services/default/orders/policy?create=true";
const FINISH: &str = "/api/v1/cluster/upgrade/finish";

/// Upgrades node by node, refuses what the next version adds, downgrades, and finishes the upgrade.
async fn upgrade(backend: Backend) {
    let Some(mut mixed) = Mixed::start(backend).await else { return };
    mixed.begins_at_the_newest_version().await;
    let load = mixed.load();
    let all = mixed.cluster.ids();
    let (first, last) = (all[0], *all.last().unwrap());

    // Upgrades one node after another. All nodes agree, whichever builds they run.
    load.rounds(2).await;
    mixed.restart_as_next(first).await;
    load.rounds(1).await;
    mixed.agree(&load).await;
    if all.len() > 1 {
        refuses_what_the_next_version_adds(&mixed, first, last).await;
    }
    // Downgrades while the state has the version of the older build.
    mixed.restart_as_this(first).await;
    load.rounds(1).await;
    mixed.agree(&load).await;
    for id in &all {
        mixed.restart_as_next(*id).await;
        load.rounds(1).await;
        mixed.agree(&load).await;
    }

    // The last node is stopped while the upgrade is finished, and returns as the older build.
    let away = all.len() > 1;
    if away {
        mixed.stop(last).await;
    }
    let status = mixed.ask(Method::GET, first, "/api/v1/cluster/status", None).await.1;
    assert_eq!(status["state_version"], json!({"current": 3, "understood": 4}), "{status}");
    let (status, answer) = mixed.ask(Method::POST, first, FINISH, None).await;
    assert_eq!((status, &answer["raised"]), (200, &json!(true)), "{answer}");
    works_in_the_next_version(&mixed, first).await;
    load.rounds(1).await;
    if !away {
        mixed.stop(last).await;
    }
    mixed.stops_as_this(last).await;
    mixed.stops_as_this(last).await;
    mixed.restart_as_next(last).await;
    load.rounds(1).await;
    mixed.agree(&load).await;
    let kept = mixed.ask(Method::GET, last, NOTE, None).await.1;
    assert_eq!(kept["note"], "two");
    mixed.every_kind_of_command_is_in_the_log(first).await;
    load.stop().await;
    mixed.cluster.stop().await.unwrap();
}

/// A command, a field and the end of the upgrade are refused. The error names the node that prevents them.
async fn refuses_what_the_next_version_adds(mixed: &Mixed, next: u64, this: u64) {
    let held_back = format!("node-{this} understands only version 3");
    let with_note = json!({"traffic": {"note": "slow"}});
    for (method, path, body) in [
        (Method::PUT, NOTE, json!({"note": "one"})),
        (Method::PUT, POLICY, with_note.clone()),
        (Method::POST, FINISH, json!({})),
    ] {
        let (status, answer) = mixed.ask(method, next, path, Some(body)).await;
        assert_eq!(status, 409, "{path}: {answer}");
        assert!(detail(&answer).contains(&held_back), "{path}: {answer}");
    }
    let (status, answer) = mixed.ask(Method::PUT, this, POLICY, Some(with_note)).await;
    assert_eq!(status, 400, "{answer}");
    assert!(detail(&answer).contains("note"), "{answer}");
}

async fn works_in_the_next_version(mixed: &Mixed, node: u64) {
    let ready = mixed.ask(Method::GET, node, "/api/v1/ready", None).await.1;
    for note in ["one", "two"] {
        let (status, answer) =
            mixed.ask(Method::PUT, node, NOTE, Some(json!({"note": note}))).await;
        assert_eq!(status, 200, "{answer}");
    }
    let with_note = json!({"traffic": {"note": "slow"}});
    let service = "/api/v1/services/default/noted/policy";
    let path = format!("{service}?create=true");
    let (status, answer) = mixed.ask(Method::PUT, node, &path, Some(with_note)).await;
    assert_eq!(status, 200, "{answer}");
    let policy = mixed.ask(Method::GET, node, service, None).await.1;
    assert_eq!(policy["policy"]["traffic"]["note"], "slow", "{policy}");
    let changes = format!("/api/v1/changes?index={}&limit=1000", ready["index"]);
    let changes = mixed.ask(Method::GET, node, &changes, None).await.1;
    let changes = changes["changes"].as_array().unwrap();
    let noted = |change: &&Value| change["type"] == "note_changed";
    assert_eq!(changes.iter().filter(noted).count(), 2, "{changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raft_cluster_is_upgraded_back_down_and_to_the_end() {
    upgrade(Backend::Raft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_redis_are_upgraded_back_down_and_to_the_end() {
    upgrade(Backend::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_a_shared_file_are_upgraded_back_down_and_to_the_end() {
    upgrade(Backend::SharedFile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_is_upgraded_back_down_and_to_the_end() {
    upgrade(Backend::Local).await;
}
