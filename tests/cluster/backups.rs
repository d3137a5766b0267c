//! Scheduled backups: they are made at once, verified, recorded, and reported if they fail.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use maxine::app::Node;
use maxine::config::{BackendKind, BackupSchedule, MemberSetting, NodeConfig};
use maxine_state::AuditAction;
use maxine_store::verify_backup;
use maxine_telemetry::{AlertKind, AlertState};
use serde_json::Value;

use crate::dev::PATIENCE;
use crate::namespace;

/// Runs a test inside the runtime that a node needs.
fn in_system(test: impl Future<Output = ()>) {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(test);
}

/// A cluster of one node that makes a backup every hour in `directory`.
async fn node(dir: &Path, directory: PathBuf) -> Node {
    let mut config = NodeConfig::defaults();
    config.backend = BackendKind::Raft;
    config.node_id = 1;
    config.data_dir = dir.join("data");
    config.http.port = 0;
    config.raft.listen = "127.0.0.1:0".parse().unwrap();
    config.raft.members =
        vec![MemberSetting { id: 1, peer_addr: "127.0.0.1:1".into(), http_addr: String::new() }];
    config.security.initial_password_file = dir.join("password");
    config.backup.schedule = Some(BackupSchedule::EveryHours(1));
    config.backup.directory = directory;
    Node::start(config).await.unwrap()
}

async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[test]
fn a_new_cluster_has_a_verified_backup_and_damage_would_have_been_found() {
    in_system(async {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("data/backups");
        let node = node(dir.path(), "backups".into()).await;
        let recorded = wait_for("a backup is recorded", || {
            let snapshot = node.view().snapshot();
            let user = "system:scheduled-backup";
            let record =
                snapshot.state.audit().newest_success(AuditAction::ClusterBackup, user)?.clone();
            Some(record)
        });
        let recorded = recorded.await;
        let [file] = &files(&directory)[..] else { panic!("{:?}", files(&directory)) };
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("maxine-maxine-") && name.ends_with(".backup"), "{name}");
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(directory.metadata().unwrap().mode() & 0o777, 0o700);
        let index = maxine_store::backup_state(file).unwrap().index();
        let len = file.metadata().unwrap().len();
        assert_eq!(&*recorded.object, format!("index {index}, {len} bytes, verified"));
        let metric = "maxine_backups_total{result=\"verified\"} 1";
        let token = std::fs::read_to_string(dir.path().join("data/break-glass")).unwrap();
        let url = format!("http://{}/api/actuator/prometheus", node.http_addr());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let began = Instant::now();
        loop {
            let answer = client.get(&url).bearer_auth(token.trim()).send().await.unwrap();
            let text = answer.text().await.unwrap();
            let newest =
                format!("\nmaxine_backup_newest_timestamp_seconds {}\n", recorded.time_ms / 1_000);
            if text.contains(metric) && text.contains(&newest) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        node.stop().await;

        // What the node did with its own file, with others.
        let verify = |bytes: &[u8], index: u64| {
            let file = dir.path().join("copy");
            std::fs::write(&file, bytes).unwrap();
            let empty = tempfile::tempdir().unwrap();
            verify_backup(&file, empty.path(), index)
        };
        let whole = std::fs::read(file).unwrap();
        assert_eq!(verify(&whole, index), Ok(()));
        assert!(verify(&whole, index + 1).unwrap_err().contains("has the index"));
        assert!(verify(&whole[..whole.len() - 1], index).is_err(), "the end is missing");
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(verify(&damaged, index).is_err(), "byte {at} of {} differs", whole.len());
        }
    });
}

#[test]
fn a_backup_that_cannot_be_written_raises_an_alert_with_the_reason() {
    in_system(async {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("not-mounted/backups");
        let node = node(dir.path(), directory).await;
        let alert = wait_for("an alert is raised", || {
            let mut alerts = node.telemetry().alerts().newest_first().into_iter();
            alerts.find(|alert| alert.kind == AlertKind::BackupFailed)
        });
        let alert = alert.await;
        assert_eq!(alert.state, AlertState::Active);
        assert!(alert.message.contains("not-mounted/backups: "), "{}", alert.message);
        let first = "not-mounted/backups failed (attempt 1; the next one is made at about 20";
        assert!(alert.message.contains(first), "{}", alert.message);
        assert!(!dir.path().join("not-mounted").exists(), "a place for a disk was made");
        node.stop().await;
    });
}

/// Regression: an attempt that ended the process was repeated at once by each start, and nothing told of it.
#[test]
fn an_attempt_that_ended_with_the_process_is_reported_and_not_repeated_at_once() {
    in_system(async {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("backups");
        let work = directory.join(".node-1.part");
        std::fs::create_dir_all(&work).unwrap();
        let node = node(dir.path(), directory.clone()).await;
        let alert = wait_for("an alert is raised", || {
            let mut alerts = node.telemetry().alerts().newest_first().into_iter();
            alerts.find(|alert| alert.kind == AlertKind::BackupFailed)
        });
        let alert = alert.await;
        assert_eq!(alert.state, AlertState::Active);
        let wanted = "it began before this node was started again, at about ";
        assert!(alert.message.contains(wanted), "{}", alert.message);
        assert_eq!(files(&directory), std::slice::from_ref(&work));
        node.stop().await;

        // The pause is over.
        let earlier = std::time::SystemTime::now() - Duration::from_secs(6 * 60);
        std::fs::File::open(&work).unwrap().set_modified(earlier).unwrap();
        let node = self::node(dir.path(), directory.clone()).await;
        let made = || {
            let files = files(&directory);
            let is_backup = |file: &PathBuf| file.extension().is_some_and(|end| end == "backup");
            files.iter().any(is_backup).then_some(())
        };
        wait_for("a backup is made", made).await;
        node.stop().await;
    });
}

/// Regression: a snapshot that did not fit on the disk stopped the node, whether it was written for a backup, on request
/// or by the count of entries.
#[test]
fn a_disk_without_room_for_the_state_refuses_backups_and_snapshots_and_the_node_continues() {
    in_system(async {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let free_port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let (port, peer_port) = (free_port(), free_port());
        let disk_path = disk.display();
        // The file 'ballast' leaves less space than the state needs. The log writes into a part that it has reserved.
        let script = format!(
            "mount -t tmpfs -o size=64m tmpfs '{disk_path}' && exec '{}' serve --mode=raft --exit-with-stdin --node-id=1 \
             --raft-listen=127.0.0.1:{peer_port} --raft-members=1@127.0.0.1:{peer_port}@http://127.0.0.1:{port} \
             --data-dir='{disk_path}/data' --port={port} --raft-snapshot-every-entries=100",
            env!("CARGO_BIN_EXE_maxine"),
        );
        let mut node = namespace::start(&script, Stdio::null());
        // The disk is in the mount namespace of the node.
        let root = PathBuf::from(format!("/proc/{}/root{disk_path}", node.id()));
        let free = || {
            let disk = nix::sys::statvfs::statvfs(&root.join("data")).unwrap();
            disk.blocks_available() * disk.fragment_size()
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = |path: &str| format!("http://127.0.0.1:{port}/api/{path}");
        let began = Instant::now();
        let token = loop {
            let ready = client.get(url("v1/ready")).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success())
                && let Ok(token) = std::fs::read_to_string(root.join("data/break-glass"))
            {
                break token.trim().to_owned();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the node is not ready: root or user namespaces are needed"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let get = |path: &str| client.get(url(path)).bearer_auth(&token);
        let snapshot = || client.post(url("v1/cluster/snapshot")).bearer_auth(&token);
        let put = async |number: usize, text: String| {
            let request = client.put(url(&format!("v1/kv/key-{number}"))).bearer_auth(&token);
            let answer = request.json(&serde_json::json!({"text": text})).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, 200, "{number}: {text}");
        };
        for number in 0..20 {
            put(number, "x".repeat(100_000)).await;
        }
        let ballast = root.join("ballast");
        let len = usize::try_from(free().saturating_sub(1_500_000)).unwrap();
        std::fs::write(&ballast, vec![0; len]).unwrap();
        assert!(free() < 2_000_000, "{}", free());
        let snapshots = || std::fs::read_dir(root.join("data/raft/snapshots")).unwrap().count();
        let before = snapshots();

        for request in [snapshot(), get("v1/cluster/backup")] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 409);
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(
                (&problem["retry"], &problem["outcome"]),
                (&"never".into(), &"not_done".into())
            );
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.starts_with("the snapshot needs about "), "{detail}");
            assert!(detail.contains(&format!(" are free on {disk_path}/data")), "{detail}");
        }
        // The count of entries asks for a snapshot too.
        for number in 0..150 {
            put(number % 3, format!("{number}")).await;
        }
        assert_eq!(snapshots(), before, "a part of a snapshot takes space");
        let began = Instant::now();
        loop {
            let alerts: Value = get("v1/alerts").send().await.unwrap().json().await.unwrap();
            let items = alerts["items"].as_array().cloned().unwrap_or_default();
            let of_snapshots = |alert: &&Value| alert["type"] == "node.snapshot_failed";
            let message =
                items.iter().find(of_snapshots).and_then(|alert| alert["message"].as_str());
            let is_by_request = |text: &str| {
                ["(1 attempt)", "(2 attempts)"].iter().any(|count| text.contains(count))
            };
            if message.is_some_and(|text| !is_by_request(text)) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{alerts}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::fs::remove_file(&ballast).unwrap();
        let answer = snapshot().send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 204, "{text}");
        assert!(snapshots() > before);
        drop(node.stdin.take());
        assert!(node.wait().unwrap().success());
    });
}

/// The folders of the backups and of the audit file are on a disk that is mounted read-only. The node serves, and says
/// what fails and where.
#[test]
fn a_read_only_folder_of_backups_or_audit_records_raises_alerts_and_does_not_stop_the_start() {
    in_system(async {
        let dir = tempfile::tempdir().unwrap();
        let (data, disk) = (dir.path().join("data"), dir.path().join("disk"));
        std::fs::create_dir(&disk).unwrap();
        let free_port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let (port, peer_port) = (free_port(), free_port());
        let (data_dir, disk) = (data.display(), disk.display());
        let script = format!(
            "mount -t tmpfs -o ro tmpfs '{disk}' && exec '{}' serve --mode=raft --exit-with-stdin --node-id=1 \
             --raft-listen=127.0.0.1:{peer_port} --raft-members=1@127.0.0.1:{peer_port}@http://127.0.0.1:{port} \
             --data-dir='{data_dir}' --port={port} --backup-schedule='every 1h' --backup-directory='{disk}/backups' \
             --audit-forward-file='{disk}/audit.jsonl'",
            env!("CARGO_BIN_EXE_maxine"),
        );
        let mut node = namespace::start(&script, Stdio::null());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let messages = async || -> Vec<(String, String)> {
            let token = std::fs::read_to_string(data.join("break-glass")).unwrap_or_default();
            let url = format!("http://127.0.0.1:{port}/api/v1/alerts");
            let Ok(answer) = client.get(url).bearer_auth(token.trim()).send().await else {
                return Vec::new();
            };
            let alerts: Value = answer.json().await.unwrap_or_default();
            let items = alerts["items"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            items.iter().map(|alert| (text(&alert["type"]), text(&alert["message"]))).collect()
        };
        let wanted = [
            ("backup.failed", format!("{disk}/backups: ")),
            ("audit.forward_failing", format!("{disk}/audit.jsonl: ")),
        ];
        let began = Instant::now();
        loop {
            let raised = messages().await;
            let is_raised = |(kind, place): &(&str, String)| {
                raised.iter().any(|(of, message)| of == kind && message.contains(place))
            };
            if wanted.iter().all(is_raised) {
                break;
            }
            let ended = node.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}): root or user namespaces are needed");
            assert!(began.elapsed() < PATIENCE, "{raised:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The node stops when its standard input is closed.
        drop(node.stdin.take());
        assert!(node.wait().unwrap().success());
    });
}
