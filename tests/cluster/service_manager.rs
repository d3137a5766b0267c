//! A node under a service manager such as systemd, of which the test is one.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::dev::PATIENCE;

/// Receives what a node reports.
struct Manager {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { dir, socket }
    }

    fn start(&self) -> Node {
        let mut command = Command::new(env!("CARGO_BIN_EXE_maxine"));
        command
            .args(["serve", "--port", "0", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .env("WATCHDOG_USEC", "3000000")
            .stderr(File::create(self.log()).unwrap());
        Node(command.spawn().unwrap())
    }

    /// The file with the node's log.
    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn next(&self) -> String {
        let mut message = [0; 256];
        let len = self.socket.recv(&mut message).expect("the node reports in time");
        String::from_utf8(message[..len].to_vec()).unwrap()
    }
}

/// A process that is killed when it is dropped.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_reports_that_it_serves_that_it_makes_progress_and_that_it_stops() {
    let manager = Manager::new();
    let mut node = manager.start();
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\nSTATUS=serves HTTP on 127.0.0.1:"), "{ready}");
    for _ in 0..2 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    kill(Pid::from_raw(node.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    // Reports of progress may have been sent before.
    let last = std::iter::repeat_with(|| manager.next()).find(|message| message != "WATCHDOG=1");
    assert!(last.unwrap().starts_with("STOPPING=1\n"));
    assert!(node.0.wait().unwrap().success());
}

/// Without a handler, the signal would end the process at once, without a line in its log.
#[test]
fn a_node_that_gets_sighup_says_that_there_is_nothing_to_reload_and_continues() {
    let manager = Manager::new();
    let mut node = manager.start();
    assert!(manager.next().starts_with("READY=1\n"));
    let pid = Pid::from_raw(node.0.id().try_into().unwrap());
    for count in 1..=2 {
        kill(pid, Signal::SIGHUP).unwrap();
        let began = Instant::now();
        loop {
            let log = std::fs::read_to_string(manager.log()).unwrap();
            if log.matches("SIGHUP: there is nothing to reload").count() == count {
                break;
            }
            assert!(node.0.try_wait().unwrap().is_none(), "it ended: {log}");
            assert!(began.elapsed() < PATIENCE, "{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(node.0.wait().unwrap().success());
}

/// The unit that the packages install: systemd accepts it, and it is as closed as the guide says. The settings in the
/// packages are good.
#[test]
fn the_packaged_unit_and_settings_are_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("maxine.service");
    let text = std::fs::read_to_string(root.join("systemd/maxine.service")).unwrap();
    // The check looks for the program, which no package has installed here.
    let program = env!("CARGO_BIN_EXE_maxine");
    std::fs::write(&unit, text.replace("/usr/bin/maxine", program)).unwrap();
    let analyze = |args: &[&str]| {
        let run = Command::new("systemd-analyze").args(args).arg(&unit).output();
        let run = run.expect("systemd-analyze is needed: scripts/install-tools.sh installs it");
        let said = [run.stdout, run.stderr].concat();
        (run.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (good, said) = analyze(&["verify", "--man=no"]);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("maxine")).collect();
    assert!(good && ours.is_empty(), "{said}");
    // The exposure is given times ten.
    let (closed, said) = analyze(&["security", "--offline=true", "--threshold=19"]);
    assert!(closed, "{said}");

    let check = Command::new(program)
        .args(["config", "check", "--port", "0", "--data-dir"])
        .arg(dir.path().join("data"))
        .arg("--config")
        .arg(root.join("packages/maxine.toml"))
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}
