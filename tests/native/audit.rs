//! The audit log: queries, its hashes, and what the verifier finds in a log that was changed.

use std::collections::BTreeMap;
use std::process::Command;

use maxine::cli::audit::{Anchor, Finding, Verified, anchors, verify};
use maxine_state::AuditAction;
use maxine_store::ControlStore;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

async fn with_history() -> (Server, String) {
    let server = Server::start().await;
    for n in 0..5 {
        server.register("orders", &format!("i{n}"), "http://h:1").await;
    }
    let drain = server.admin(Method::PUT, "/services/default/orders/instances/i0/drain");
    server.json(drain.header("x-trace-id", "trace-7").json(&json!({"reason": "r"}))).await;
    let export = server.admin(Method::GET, "/audit/export").send().await.expect("an answer");
    assert_eq!(export.status(), 200);
    let text = export.text().await.expect("text");
    (server, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_did_what_with_which_result() {
    let (server, _) = with_history().await;
    let audit = server.get("/audit?action=instance.drain").await;
    let record = &audit["items"][0];
    assert_eq!(record["object"], "default/orders/i0");
    assert_eq!(record["outcome"], "success");
    assert_eq!(record["address"], "127.0.0.1");
    assert_eq!(record["trace_id"], "trace-7");
    assert_eq!(record["user"], server.password.0);
    let first = server.get("/audit?action=instance.register&limit=2").await;
    assert_eq!(first["items"][0]["object"], "default/orders/i4", "newest first");
    let cursor = first["next_cursor"].as_str().unwrap();
    let next =
        server.get(&format!("/audit?action=instance.register&limit=2&cursor={cursor}")).await;
    assert_eq!(next["items"][0]["object"], "default/orders/i2");
    let leader = server.get("/cluster/leadership").await;
    assert_eq!(leader["items"][0]["holder"], "node-1");
    let proof = server.get("/audit/verify").await;
    assert_eq!((&proof["ok"], &proof["first_bad_seq"]), (&json!(true), &Value::Null));
}

/// Waits for the newest record of an action, because it is written concurrently with the answer.
async fn recorded(server: &Server, action: &str) -> Value {
    let mut changes = server.view.index_changes();
    let found = async {
        loop {
            let audit = server.get(&format!("/audit?action={action}&limit=1")).await;
            if let Some(record) = audit["items"].get(0) {
                return record.clone();
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), found).await.expect("a record")
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_recorded_with_who_tried_what() {
    let server = Server::start().await;
    let viewer = json!({"role": "viewer", "password": "long enough"});
    server.json(server.admin(Method::PUT, "/users/eve").json(&viewer)).await;
    let eve = server.sign_in("eve", "long enough").await;
    // A refusal that concerns no user is not recorded either.
    assert_eq!(server.json(server.open(Method::GET, "/config")).await.0, 401);
    let change = server.open(Method::PUT, "/config").bearer_auth(&eve).json(&json!({}));
    let (status, problem) = server.json(change.header("x-trace-id", "tried")).await;
    assert_eq!((status.as_u16(), &problem["type"]), (403, &json!("/problems/forbidden")));
    assert_eq!(problem["detail"], "the route needs the role operator");
    let record = recorded(&server, "request.authorize").await;
    assert_eq!((&record["user"], &record["outcome"]), (&json!("eve"), &json!("refused")));
    assert_eq!(record["object"], "PUT /api/v1/config");
    assert_eq!((&record["address"], &record["trace_id"]), (&json!("127.0.0.1"), &json!("tried")));

    let forged = server.open(Method::GET, "/config?x=secret").bearer_auth(format!("{eve}x"));
    assert_eq!(server.json(forged).await.0, 401);
    let of_nobody = async {
        while server.get("/audit?action=request.authorize").await["items"][0]["user"] != "" {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), of_nobody).await.expect("a record");
    let all = server.get("/audit?action=request.authorize").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 2, "{all}");
    assert_eq!(all["items"][0]["object"], "GET /api/v1/config", "no query: it may hold secrets");
    assert!(!all.to_string().contains(&eve), "no token is written down");
    assert_eq!(server.get("/audit/verify").await["ok"], true);
}

/// Regression: a changed log level, an acknowledged alert and a silence left no record.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_node_by_an_operator_is_recorded() {
    // The log of this test process is not that of a node. Only the levels are tested.
    maxine_telemetry::LogLevels::new("info", |_| Ok(())).install();
    let server = Server::start().await;
    let level = json!({"level": "debug", "duration_ms": 60_000});
    let silence = json!({"duration_ms": 60_000, "reason": "maintenance"});
    let raised = server.get("/alerts").await["items"][0]["id"].as_u64();
    let mut changes = vec![
        (
            server.admin(Method::PUT, "/log-levels/maxine_raft").json(&level),
            "node-1/log-level/maxine_raft, debug for 60000 ms".to_owned(),
        ),
        (
            server.admin(Method::DELETE, "/log-levels/maxine_raft"),
            "node-1/log-level/maxine_raft, ended".to_owned(),
        ),
        (
            server.admin(Method::PUT, "/alerts/silences/node.stalled").json(&silence),
            "node-1/silence/node.stalled, for 60000 ms: maintenance".to_owned(),
        ),
        (
            server.admin(Method::DELETE, "/alerts/silences/node.stalled"),
            "node-1/silence/node.stalled, ended".to_owned(),
        ),
    ];
    if let Some(id) = raised {
        let path = format!("/alerts/{id}/ack");
        let object = format!("node-1/alert/{id}, acknowledged: ");
        changes.push((server.admin(Method::POST, &path), object));
    }
    for (request, object) in changes {
        let status = request.send().await.expect("an answer").status();
        assert!(status.is_success(), "{object}: {status}");
        let found = async {
            loop {
                let audit = server.get("/audit?action=config.put").await;
                let items = audit["items"].as_array().unwrap().clone();
                let is_it = |record: &&Value| {
                    record["object"].as_str().is_some_and(|named| named.starts_with(&object))
                };
                if let Some(record) = items.iter().find(is_it) {
                    return record.clone();
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let limit = std::time::Duration::from_secs(30);
        let record = tokio::time::timeout(limit, found).await.expect(&object);
        assert_eq!(record["outcome"], "success");
        assert_eq!(record["user"], server.password.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_removed_or_reordered_record_is_found() {
    let (_server, export) = with_history().await;
    let lines: Vec<&str> = export.lines().collect();
    let log = verify(&export).unwrap();
    assert_eq!(log.hashes.len(), lines.len() - 1);

    let changed = export.replacen("default/orders/i1", "default/orders/i9", 1);
    assert!(matches!(verify(&changed), Err(Finding::Changed { .. })));
    let at = lines.iter().position(|line| line.contains("default/orders/i2")).unwrap();
    let mut removed = lines.clone();
    removed.remove(at);
    let finding = verify(&removed.join("\n")).unwrap_err();
    assert!(matches!(&finding, Finding::OutOfOrder { class: "open", .. }), "{finding:?}");
    let mut reordered = lines.clone();
    reordered.swap(at, at + 1);
    assert!(matches!(verify(&reordered.join("\n")), Err(Finding::OutOfOrder { .. })));
    let truncated = lines[..lines.len() - 1].join("\n");
    assert!(matches!(verify(&truncated), Err(Finding::Truncated { .. })));
    assert!(matches!(verify("{}"), Err(Finding::Unreadable { line: 1, .. })));
    assert!(matches!(verify(""), Err(Finding::Unreadable { .. })));

    // The same log on another node agrees up to the end of the shorter one.
    let mut other = log.clone();
    other.hashes.pop_last();
    assert_eq!(log.first_difference(&other), None);
    let seq = *other.hashes.keys().nth(1).unwrap();
    other.hashes.insert(seq, [7; 32]);
    assert_eq!(log.first_difference(&other), Some(seq));
}

/// The export without its last record, with a first line that fits. Everybody who has the file can make this.
fn cut(export: &str) -> String {
    let mut lines: Vec<&str> = export.lines().collect();
    let last: Value = serde_json::from_str(lines.pop().unwrap()).unwrap();
    let mut head: Value = serde_json::from_str(lines[0]).unwrap();
    head["head"] = last["previous"].clone();
    head["next_seq"] = last["seq"].clone();
    head["records"] = json!(lines.len() - 1);
    for class in head["classes"].as_array_mut().unwrap() {
        if class["class"] == last["class"] {
            class["kept"] = json!(class["kept"].as_u64().unwrap() - 1);
        }
    }
    let head = head.to_string();
    lines[0] = &head;
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_end_was_cut_off_and_whose_head_fits_is_told_from_a_whole_one() {
    let (server, export) = with_history().await;
    let recorded = recorded(&server, "audit.export").await;
    assert_eq!(recorded["user"], server.password.0, "who exported is recorded");
    let whole = verify(&export).unwrap();
    let cut = verify(&cut(&export)).expect("alone it fits itself");
    assert_eq!(cut.next_seq, whole.next_seq - 1);

    let live = server.admin(Method::GET, "/audit/export").send().await.expect("an answer");
    let live = verify(&live.text().await.expect("text")).unwrap();
    let proved = whole.against(&live).unwrap();
    assert!(proved.removed_proved, "the record of the export has the number of its records");
    assert!(proved.text.contains("an export ended there"), "{}", proved.text);
    let finding = cut.against(&live).unwrap_err();
    assert!(finding.contains("no record of an export"), "{finding}");
    let ahead = live.against(&whole).unwrap_err();
    assert!(ahead.contains("the cluster only up to"), "{ahead}");
}

/// The export without the oldest records of a class, with a first line that counts them as removed. Everybody who has the
/// file can make this.
fn without_oldest(export: &str, class: &str, count: usize) -> String {
    let mut lines: Vec<Value> =
        export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut head = lines.remove(0);
    for _ in 0..count {
        let oldest = lines.iter().position(|record| record["class"] == class).unwrap();
        let removed = lines.remove(oldest);
        let classes = head["classes"].as_array_mut().unwrap();
        let of_class = classes.iter_mut().find(|of| of["class"] == class).unwrap();
        of_class["base"] = removed["hash"].clone();
        of_class["dropped"] = json!(of_class["dropped"].as_u64().unwrap() + 1);
        of_class["kept"] = json!(of_class["kept"].as_u64().unwrap() - 1);
    }
    head["records"] = json!(lines.len());
    lines.insert(0, head);
    lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

/// An export of a log that says that records were removed for their age, so that a file without some records fits itself.
async fn with_expiry() -> (Server, String) {
    let server = Server::start().await;
    let proposal = maxine_state::Proposal {
        request_id: maxine_state::RequestId(7),
        proposed_at_ms: 1,
        fence: None,
        actor: maxine_state::Actor::system("retention"),
        command: maxine_state::Command::RecordAudit {
            items: vec![(AuditAction::AuditExpire, "1".into(), true)],
        },
    };
    let batch = maxine_state::Batch { proposals: vec![proposal] };
    let limit = std::time::Duration::from_secs(5);
    ControlStore::propose(&*server.store, batch, limit.into()).await.expect("it is written");
    for n in 0..5 {
        server.register("orders", &format!("i{n}"), "http://h:1").await;
    }
    let export = server.admin(Method::GET, "/audit/export").send().await.expect("an answer");
    let text = export.text().await.expect("text");
    (server, text)
}

fn removed(log: &Verified) -> BTreeMap<String, u64> {
    log.dropped.iter().map(|(class, count)| ((*class).to_owned(), *count)).collect()
}

/// Regression: a file whose first line counted records as removed passed, although the cluster had never removed any.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_taken_out_of_a_young_log_are_found_without_another_source() {
    let (_server, export) = with_history().await;
    let forged = without_oldest(&export, "open", 2);
    let finding = verify(&forged).unwrap_err();
    assert_eq!(finding, Finding::NeverRemoved { class: "open", dropped: 2 });
    assert!(verify(&without_oldest(&export, "open", 0)).is_ok());
    // All records of a class were taken out, and the first line still counts them.
    let of_open = |line: &&str| line.contains("\"class\":\"open\",\"class_seq\"");
    let mut lines: Vec<&str> = export.lines().filter(|line| !of_open(line)).collect();
    assert_eq!(export.lines().count() - lines.len(), 5);
    let mut head: Value = serde_json::from_str(lines[0]).unwrap();
    head["records"] = json!(lines.len() - 1);
    let head = head.to_string();
    lines[0] = &head;
    assert_eq!(verify(&lines.join("\n")).unwrap_err(), Finding::WrongHead);
    // A class that is named twice, once without removed records.
    let forged = without_oldest(&export, "open", 2);
    let (first, rest) = forged.split_once('\n').unwrap();
    let mut head: Value = serde_json::from_str(first).unwrap();
    let whole: Value = serde_json::from_str(export.lines().next().unwrap()).unwrap();
    let classes = whole["classes"].as_array().unwrap();
    let open = classes.iter().find(|class| class["class"] == "open").unwrap().clone();
    head["classes"].as_array_mut().unwrap().insert(0, open);
    assert_eq!(verify(&format!("{head}\n{rest}")).unwrap_err(), Finding::WrongHead);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_taken_out_of_a_file_are_found_by_the_cluster_and_by_another_file() {
    let (server, export) = with_expiry().await;
    recorded(&server, "audit.export").await;
    let whole = verify(&export).unwrap();
    let forged = verify(&without_oldest(&export, "open", 2)).expect("alone it fits itself");
    assert_eq!(removed(&forged)["open"], 2);
    let live = server.admin(Method::GET, "/audit/export").send().await.expect("an answer");
    let live = verify(&live.text().await.expect("text")).unwrap();
    assert!(whole.against(&live).unwrap().removed_proved);
    let finding = forged.against(&live).unwrap_err();
    assert!(finding.contains("2 records of class open"), "{finding}");
    assert!(finding.contains("the cluster has removed 0"), "{finding}");
    // The cluster has removed these records later. Its record of the export says how many there were.
    let mut later = live.clone();
    for (class, count) in &mut later.dropped {
        *count += if *class == "open" { 4 } else { 0 };
    }
    let finding = forged.against(&later).unwrap_err();
    assert!(finding.contains("records were taken out"), "{finding}");
    assert!(whole.against(&later).unwrap().removed_proved);

    for (one, other) in [(&forged, &live), (&live, &forged), (&forged, &whole), (&whole, &forged)] {
        let finding = one.removed_otherwise(other).expect("they contradict each other");
        assert!(finding.contains("of class open were removed, the other one says"), "{finding}");
    }
    assert_eq!(whole.removed_otherwise(&live), None);
    assert_eq!(forged.removed_otherwise(&later), None, "the cluster may have removed them");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_taken_out_of_a_file_are_found_by_an_anchor_or_named_as_not_checked() {
    let (_server, export) = with_expiry().await;
    let (whole, changed) = (verify(&export).unwrap(), without_oldest(&export, "open", 2));
    let forged = verify(&changed).expect("alone it fits itself");
    let (next_seq, head) = (whole.next_seq, whole.head);
    let end = Anchor { next_seq, head, dropped: Some(removed(&whole)), time_ms: 1 };
    assert_eq!(whole.agrees_with(&end), Ok(true));
    let finding = forged.agrees_with(&end).unwrap_err();
    assert!(finding.contains("2 records of class open"), "{finding}");
    let old = Anchor { dropped: None, ..end.clone() };
    assert_eq!(forged.agrees_with(&old), Ok(true), "an old anchor says nothing about it");
    // More were removed than the file says.
    let more = [("access".to_owned(), 1)].into();
    let finding = whole.agrees_with(&Anchor { dropped: Some(more), ..end.clone() }).unwrap_err();
    assert!(finding.contains("0 records of class access"), "{finding}");

    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (good, bad) = (write("good", &export), write("bad", &changed));
    let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = json!({"next_seq": next_seq, "head": hex, "time_ms": 1});
    let old = write("old", &line.to_string());
    let mut line = line;
    line["dropped"] = json!(removed(&whole));
    let new = write("new", &line.to_string());
    let run = |arguments: &[&std::path::Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_maxine"));
        let output = command.args(["audit", "verify"]).args(arguments).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), text)
    };
    let option = std::path::Path::new("--anchor");
    let doubt = "the file itself says that 2 records were removed (2 open); this was not checked";
    for arguments in [vec![bad.as_path()], vec![bad.as_path(), option, old.as_path()]] {
        let (success, text) = run(&arguments);
        assert!(success && text.contains(doubt), "{text}");
    }
    let (success, text) = run(&[bad.as_path(), option, new.as_path()]);
    assert!(!success && text.contains("records were taken out"), "{text}");
    let (success, text) = run(&[good.as_path(), option, new.as_path()]);
    assert!(success && !text.contains("not checked"), "{text}");
    let (success, text) = run(&[good.as_path(), bad.as_path()]);
    assert!(!success && text.contains("the other one says"), "{text}");
}

/// Whoever can write a file can write the whole chain anew. An anchor that is kept elsewhere shows it.
#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_shows_a_log_whose_end_was_cut_off_or_that_was_written_anew() {
    let (_server, export) = with_history().await;
    let log = verify(&export).unwrap();
    let anchor =
        |next_seq: u64, head: [u8; 32]| Anchor { next_seq, head, dropped: None, time_ms: 1 };
    let end = anchor(log.next_seq, log.head);
    assert_eq!(log.agrees_with(&end), Ok(true));
    let (seq, hash) = log.hashes.iter().nth(1).unwrap();
    let early = anchor(seq + 1, *hash);
    assert_eq!(log.agrees_with(&early), Ok(true));
    let cut = verify(&cut(&export)).unwrap();
    assert_eq!(cut.agrees_with(&early), Ok(true));
    let finding = cut.agrees_with(&end).unwrap_err();
    assert!(finding.contains("was cut off"), "{finding}");
    // A chain that is correct by itself, with other records.
    let (_other, anew) = with_history().await;
    let finding = verify(&anew).unwrap().agrees_with(&early).unwrap_err();
    assert!(finding.contains("differs from the anchor"), "{finding}");
}

#[test]
fn anchors_are_found_among_forwarded_records_and_a_bad_one_is_not_left_out() {
    let head = "ab".repeat(32);
    let line = json!({"next_seq": 7, "head": head, "index": 9, "time_ms": 5});
    let text = [
        json!({"seq": 3, "hash": "x", "object": "head"}).to_string(),
        json!({"missing": {"records": 2}, "node": "n"}).to_string(),
        json!({"records": [], "anchor": null}).to_string(),
        format!("<110>1 - n maxine - anchor - {}", json!({"anchor": line})),
        line.to_string(),
        String::new(),
    ];
    let expected = Anchor { next_seq: 7, head: [0xab; 32], dropped: None, time_ms: 5 };
    assert_eq!(anchors(&text.join("\n")).unwrap(), [expected.clone(), expected.clone()]);
    let with_counts = json!({"next_seq": 7, "head": head, "dropped": {"open": 3}, "time_ms": 5});
    let dropped = Some([("open".to_owned(), 3)].into());
    assert_eq!(anchors(&with_counts.to_string()).unwrap(), [Anchor { dropped, ..expected }]);
    let short = json!({"anchor": {"next_seq": 7, "head": "ab", "time_ms": 5}}).to_string();
    assert!(anchors(&format!("\n{short}")).unwrap_err().starts_with("line 2 "));
    assert!(anchors("{\"anchor\": {}}").is_err());
    assert!(anchors("{").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_of_strangers_push_no_other_record_out_and_what_leaves_is_counted() {
    let server = Server::start().await;
    let known = server.admin(Method::PUT, "/services/default/orders/instances/known");
    let known = known.json(&json!({"address": "http://h:1", "ttl_ms": 3_600_000}));
    assert_eq!(server.json(known).await.0, 200);
    let viewer = json!({"role": "viewer", "password": "long enough"});
    server.json(server.admin(Method::PUT, "/users/eve").json(&viewer)).await;
    // Each item makes one record, and the class of callers without a credential keeps 20,000.
    for batch in 0..21 {
        let item = |n: usize| {
            let address = format!("http://h:{}", 1 + (batch * 1_000 + n) % 60_000);
            json!({"service": "flood", "id": format!("i{n}"), "address": address, "ttl_ms": 3_600_000})
        };
        let body = json!({"items": (0..1_000).map(item).collect::<Vec<_>>()});
        let (status, answer) =
            server.json(server.open(Method::POST, "/registrations").json(&body)).await;
        assert_eq!(status.as_u16(), 200, "{answer}");
    }
    let users = server.get("/audit?action=user.put&limit=1000").await;
    let users: Vec<&Value> =
        users["items"].as_array().unwrap().iter().map(|record| &record["object"]).collect();
    assert!(users.contains(&&json!("eve")), "{users:?}");
    let proof = server.get("/audit/verify").await;
    assert_eq!(proof["ok"], true);
    let class = |name: &str| {
        let classes = proof["classes"].as_array().unwrap();
        classes.iter().find(|class| class["class"] == name).unwrap().clone()
    };
    let open = class("open");
    assert_eq!((&open["kept"], &open["dropped"]), (&json!(20_000), &json!(1_000)));
    assert_eq!(
        (&class("registrations")["dropped"], &class("identities")["dropped"]),
        (&json!(0), &json!(0))
    );
    let known = server.get("/audit?action=instance.register&object=default/orders/known").await;
    assert_eq!(known["items"][0]["class"], "registrations", "{known}");
}

/// The hashes cover the code of a refusal. So a changed code is detected, and a changed text is only reported.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_proved_by_its_code_and_not_by_its_words() {
    let server = Server::start().await;
    let delete = server.admin(Method::DELETE, "/users/nobody");
    assert_eq!(server.json(delete).await.0, 404);
    let record = recorded(&server, "user.delete").await;
    assert_eq!(record["outcome"], "refused");
    assert_eq!(record["detail"], "user nobody does not exist");
    let code = record["refusal"].as_str().expect("a code");
    let export = server.admin(Method::GET, "/audit/export").send().await.expect("an answer");
    let export = export.text().await.expect("text");
    assert_eq!(verify(&export).unwrap().reworded, 0);
    let reworded = export.replacen("user nobody does not exist", "nobody is not a user", 1);
    assert_eq!(verify(&reworded).unwrap().reworded, 1);
    // Another name in the code: `nobody` in hexadecimal becomes `nobodz`.
    let forged = export.replacen(code, &code.replacen("6e6f626f6479", "6e6f626f647a", 1), 1);
    assert_ne!(forged, export);
    assert!(matches!(verify(&forged), Err(Finding::Changed { .. })));
    let unknown = export.replacen(code, "ff", 1);
    assert!(matches!(verify(&unknown), Err(Finding::Unreadable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_at_the_newest_state_version_and_it_is_shown() {
    let server = Server::start().await;
    let newest = maxine_state::STATE_VERSION;
    let status = server.get("/cluster/status").await;
    assert_eq!(status["state_version"], json!({"current": newest, "understood": newest}));
    let finish = server.admin(Method::POST, "/cluster/upgrade/finish");
    let (answered, body) = server.json(finish).await;
    assert_eq!(answered, 200, "{body}");
    assert_eq!((&body["state_version"], &body["raised"]), (&json!(newest), &json!(false)));
    let raised = server.get("/audit?action=cluster.raise_state_version").await;
    assert_eq!(raised["items"].as_array().map(Vec::len), Some(1), "{raised}");
    assert_eq!(raised["items"][0]["user"], "system:upgrade");
}
