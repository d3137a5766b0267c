//! Traces the system calls of real nodes. No acknowledgement may be written before the entry was written to
//! the log file and the file was synced, on a majority of the nodes.
//!
//! A killed process loses nothing that it wrote, so only such a trace shows a missing sync.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test measures real time")]

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::process::{NodeProcess, addrs};

const PROPOSALS: usize = 20;
const FIRST_SEGMENT: &str = "wal/00000000000000000001.wal";

/// One finished system call of a trace.
#[derive(Debug)]
struct Call {
    begin_s: f64,
    end_s: f64,
    name: String,
    arguments: String,
}

/// Parses the output of `strace -f -ttt -T -y`, and joins calls that another thread's line has interrupted.
fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: HashMap<(String, String), (f64, String)> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let mut words = line.splitn(2, ' ');
        let (Some(thread), Some(rest)) = (words.next(), words.next()) else { continue };
        let Some((time, rest)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(begin_s) = time.parse::<f64>() else { continue };
        if let Some(rest) = rest.strip_prefix("<... ") {
            let Some((name, rest)) = rest.split_once(" resumed>") else { continue };
            let key = (thread.to_owned(), name.to_owned());
            let (begin_s, head) = unfinished.remove(&key).expect("it began before it resumed");
            let arguments = head + rest;
            calls.push(Call { begin_s, end_s: begin_s, name: name.to_owned(), arguments });
        } else if let Some((name, arguments)) = rest.split_once('(') {
            if let Some(head) = arguments.strip_suffix(" <unfinished ...>") {
                let key = (thread.to_owned(), name.to_owned());
                unfinished.insert(key, (begin_s, head.to_owned()));
                continue;
            }
            let (name, arguments) = (name.to_owned(), arguments.to_owned());
            calls.push(Call { begin_s, end_s: begin_s, name, arguments });
        }
        let Some(call) = calls.last_mut() else { continue };
        let took = call.arguments.rsplit_once('<').and_then(|(_, took)| took.strip_suffix('>'));
        if let Some(took) = took.and_then(|took| took.parse::<f64>().ok()) {
            call.end_s = call.begin_s + took;
        }
    }
    calls
}

/// When the entry with `marker` was durable on one node, in seconds since 1970: the end of the first
/// successful sync of the log file that began after the entry was written to it. Infinity if it never was.
fn durable_at(calls: &[Call], log_file: &str, marker: &str) -> f64 {
    let of_log = |call: &Call| call.arguments.contains(&format!("<{log_file}>"));
    let written = calls.iter().find(|call| {
        matches!(&call.name[..], "pwrite64" | "write" | "pwritev" | "writev")
            && of_log(call)
            && call.arguments.contains(marker)
    });
    let Some(written) = written else { return f64::INFINITY };
    calls
        .iter()
        .filter(|call| matches!(&call.name[..], "fdatasync" | "fsync"))
        .filter(|call| of_log(call) && call.arguments.contains(") = 0"))
        .filter(|call| call.begin_s >= written.end_s)
        .map(|call| call.end_s)
        .fold(f64::INFINITY, f64::min)
}

fn strace(out: &Path) -> Vec<String> {
    let found = Command::new("strace").arg("-V").output();
    assert!(
        found.is_ok_and(|output| output.status.success()),
        "strace is missing: run scripts/install-tools.sh"
    );
    let words =
        "strace -f -ttt -T -y -s 2000000 -e trace=write,writev,pwrite64,pwritev,fsync,fdatasync -o";
    let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    words.push(out.to_str().unwrap().to_owned());
    words
}

struct Traced {
    /// For each proposal, when the write of its acknowledgement began.
    acknowledged: Vec<f64>,
    /// For each node and proposal, when its entry was durable.
    durable: Vec<Vec<f64>>,
}

impl Traced {
    /// Proposals that were acknowledged before both nodes had them.
    fn too_early(&self) -> usize {
        let early = |number: &usize| {
            self.durable.iter().any(|node| node[*number] > self.acknowledged[*number])
        };
        (0..PROPOSALS).filter(early).count()
    }
}

/// Traces a cluster of two nodes, in which every acknowledgement needs both disks.
fn trace(engine: &str, log_file: &str, faults: &str) -> Traced {
    let dir = tempfile::tempdir().unwrap();
    let addrs = addrs(2);
    let outputs: Vec<PathBuf> = (1..=2).map(|id| dir.path().join(format!("trace-{id}"))).collect();
    let nodes: Vec<NodeProcess> = (1..=2u64)
        .zip(&outputs)
        .map(|(id, out)| NodeProcess::start(&dir, id, engine, &addrs, &strace(out)))
        .collect();
    nodes[0].ask("bootstrap").unwrap();
    nodes[0].ask("propose warm-up").unwrap();
    for node in &nodes {
        node.set_faults(faults);
    }
    let marker = |number: usize| format!("marker-{number:04}-of-the-entry");
    for number in 0..PROPOSALS {
        // The answer does not contain the payload, so its tag identifies it.
        nodes[0].ask_tagged(&format!("ack{number:04}"), &format!("propose {}", marker(number)));
    }
    for node in nodes {
        node.quit();
    }
    let traces: Vec<Vec<Call>> = outputs
        .iter()
        .map(|out| parse(&String::from_utf8_lossy(&std::fs::read(out).unwrap())))
        .collect();
    let acknowledged = |number: usize| {
        let line = format!("\"ack{number:04} ok ");
        let call = traces[0]
            .iter()
            .find(|call| call.name == "write" && call.arguments.contains(&line))
            .expect("every acknowledgement is in the trace");
        call.begin_s
    };
    let file_of = |id: usize| {
        let path = dir.path().join(format!("node-{id}")).join(log_file);
        path.canonicalize().unwrap().to_str().unwrap().to_owned()
    };
    Traced {
        acknowledged: (0..PROPOSALS).map(acknowledged).collect(),
        durable: traces
            .iter()
            .enumerate()
            .map(|(at, calls)| {
                let file = file_of(at + 1);
                (0..PROPOSALS).map(|n| durable_at(calls, &file, &marker(n))).collect()
            })
            .collect(),
    }
}

fn nothing_is_acknowledged_before_it_is_durable(engine: &str, log_file: &str) {
    let traced = trace(engine, log_file, "");
    for (at, node) in traced.durable.iter().enumerate() {
        let never = node.iter().filter(|at| at.is_infinite()).count();
        assert_eq!(never, 0, "{engine}: node {} never synced {never} entries", at + 1);
    }
    assert_eq!(traced.too_early(), 0, "{engine}: acknowledged before it was durable");
}

#[test]
fn no_acknowledgement_precedes_the_sync_of_its_entry_on_sled() {
    nothing_is_acknowledged_before_it_is_durable("sled", "sled/db");
}

#[test]
fn no_acknowledgement_precedes_the_sync_of_its_entry_on_redb() {
    nothing_is_acknowledged_before_it_is_durable("redb", "log.redb");
}

#[test]
fn no_acknowledgement_precedes_the_sync_of_its_entry_on_wal() {
    nothing_is_acknowledged_before_it_is_durable("wal", FIRST_SEGMENT);
}

/// Shows that the check above can fail.
#[cfg(feature = "faults")]
#[test]
fn an_early_acknowledgement_is_noticed() {
    for (engine, log_file) in [("sled", "sled/db"), ("redb", "log.redb"), ("wal", FIRST_SEGMENT)] {
        let traced = trace(engine, log_file, "ack-before-fsync,slow-fsync=50");
        let early = traced.too_early();
        assert!(early > PROPOSALS / 2, "{engine}: only {early} of {PROPOSALS} were noticed");
    }
}
