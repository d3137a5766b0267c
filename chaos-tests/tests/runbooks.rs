//! Executes every command of the runbooks against a real cluster.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use maxine_chaos::cluster::{Backend, Cluster, ClusterPlan};
use maxine_chaos::network::NetworkKind;
use maxine_chaos::program;

fn pages() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations");
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    pages
}

/// The code blocks of a page with this mark.
fn blocks(page: &Path, mark: &str) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let mut blocks = Vec::new();
    let mut inside: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut inside, line.strip_prefix("```")) {
            (None, Some(mark)) => inside = Some((mark.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(inside.take()),
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks.into_iter().filter(|(own, _)| own == mark).map(|(_, block)| block).collect()
}

fn execute(page: &Path, block: &str, env: &[(&str, String)]) {
    let output = Command::new("sh")
        .args(["-e", "-u", "-c", block])
        .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}:\n{block}\n{}{}",
        page.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// How the nodes of the page about hardening are started.
const HARDENED: [&str; 2] = ["--registration-access=token", "--discovery-access=token"];

/// A settings file without a problem, for a node with this data directory. It has TLS, unlike the nodes of this test.
fn hardened_settings(dir: &Path, data_dir: &str) -> String {
    let tls = dir.join("tls-of-settings");
    let now_ms = maxine_chaos::clock::wall_ms();
    let validity = maxine_raft::pki::Validity { now_ms, node_days: 365 };
    let made = maxine_raft::pki::issue_cluster(&tls, "maxine-chaos", &[3], validity).unwrap();
    let denied = tls.join("denied");
    std::fs::write(&denied, "# none\n").unwrap();
    let [ca, certificate, key] =
        [&made.ca_pem, &made.nodes[0].cert_pem, &made.nodes[0].key_pem].map(|path| path.display());
    let denied = denied.display();
    format!(
        "[node]\nid = 3\ndata_dir = \"{data_dir}\"\n[state]\nmode = \"raft\"\n[raft]\ncluster_id = \"maxine-chaos\"\n\
         tls_ca = \"{ca}\"\ntls_cert = \"{certificate}\"\ntls_key = \"{key}\"\ntls_denied = \"{denied}\"\n\
         [http]\ntls_cert = \"{certificate}\"\ntls_key = \"{key}\"\n\
         [security]\nregistration_access = \"token\"\ndiscovery_access = \"token\"\nupstream_deny = \"192.0.2.0/24\"\n"
    )
}

/// The texts in backticks that begin with one of these.
fn named(text: &str, begins: &[&str]) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    let words = words.filter_map(|word| word.split([' ', '{']).next());
    let wanted = words.filter(|word| begins.iter().any(|begin| word.starts_with(begin)));
    wanted.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_runbook_says_what_is_seen_done_and_lost_in_names_that_exist() {
    let dir = tempfile::tempdir().unwrap();
    let plan = ClusterPlan::new(Backend::Raft, NetworkKind::Loopback);
    let mut cluster = Cluster::start(plan, dir.path()).await.unwrap();
    let metrics = cluster.client(1).text("/api/actuator/prometheus").await.unwrap();
    cluster.stop().await.unwrap();
    let kinds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/telemetry/src/alert_kind.rs");
    let alerts = std::fs::read_to_string(kinds).unwrap();
    let mut pages = pages();
    // Pages that are about no failure.
    pages.retain(|page| !page.ends_with("README.md") && !page.ends_with("hardening.md"));
    assert!(pages.len() >= 9, "{pages:?}");
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let parts = [
            "**You see**",
            "- Metric: ",
            "- Alert: ",
            "- Dashboard: ",
            "**Maxine does automatically**",
        ];
        for part in parts.into_iter().chain(["**Do**", "**Can be lost**"]) {
            assert!(text.contains(part), "{} has no {part:?}", page.display());
        }
        for metric in named(&text, &["maxine_"]) {
            let declared = format!("# TYPE {metric} ");
            assert!(metrics.contains(&declared), "{}: no metric {metric}", page.display());
        }
        for alert in named(&text, &["cluster.", "store.", "registry.", "node."]) {
            assert!(
                alerts.contains(&format!("\"{alert}\"")),
                "{}: no alert {alert}",
                page.display()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_runbooks_work_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let program = program::locate().unwrap();
    let path =
        format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut executed = 0;
    for page in pages() {
        let (running, stopped) = (blocks(&page, "sh"), blocks(&page, "sh stopped"));
        if running.is_empty() && stopped.is_empty() {
            continue;
        }
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        let own = dir.path().join(&name);
        let mut plan = ClusterPlan::new(Backend::Raft, NetworkKind::Loopback);
        if name == "hardening" {
            plan.flags.extend(HARDENED.map(str::to_owned));
        }
        let mut cluster = Cluster::start(plan, &own).await.unwrap();
        let data_dir = cluster.node(3).plan().data_dir.display().to_string();
        let settings = own.join("node.toml");
        std::fs::write(&settings, hardened_settings(&own, &data_dir)).unwrap();
        let servers: Vec<String> =
            cluster.ids().iter().map(|id| cluster.client(*id).base().to_owned()).collect();
        let env = [
            ("PATH", path.clone()),
            ("MAXINE_SERVER", servers.join(",")),
            ("MAXINE_TOKEN", cluster.token().unwrap()),
            ("BACKUP", own.join("backup.bin").display().to_string()),
            ("TLS_DIR", own.join("tls").display().to_string()),
            ("NODE_DATA", data_dir),
            ("NODE_CONFIG", settings.display().to_string()),
        ];
        for block in &running {
            execute(&page, block, &env);
            cluster.wait_ready(Duration::from_secs(60)).await.unwrap();
        }
        cluster.stop().await.unwrap();
        for block in &stopped {
            execute(&page, block, &env);
        }
        executed += running.len() + stopped.len();
    }
    assert!(executed >= 10, "only {executed} blocks were found");
}
