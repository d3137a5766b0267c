//! The command that `maxine lock` runs, and the signals that it gets.
//!
//! At a terminal, the command is in the process group of `maxine lock`. So it can read the terminal, the keyboard's
//! signals reach it, and a pipeline stays one job. Without a terminal it has a process group of its own, so that the
//! processes that it started can be ended with it. At a terminal these are found by their environment.

use std::ffi::OsString;
use std::fs::{self, File};
use std::future::poll_fn;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitStatus;
use std::task::Poll;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::umask;
use nix::unistd::{AccessFlags, Pid, access, getpgrp, getsid, tcgetpgrp};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::exit::CliError;

/// How long the command has to end after SIGTERM or SIGHUP, before it gets SIGKILL.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at what the command has started.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// The environment variable that marks the command and all that it starts.
pub(super) const SESSION_VARIABLE: &str = "MAXINE_LOCK_SESSION";

/// The signals that end or interrupt a command. A signal that is ignored already stays so, as after `nohup`.
pub(super) struct Signals(Vec<(Signal, Stream)>);

impl Signals {
    /// Begins to receive them. Until the command is started, they end `maxine lock`.
    pub(super) fn new() -> Result<Self, CliError> {
        let ignored = ignored();
        let all = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];
        let wanted = all.into_iter().filter(|name| ignored >> (*name as i32 - 1) & 1 == 0);
        let streams = wanted.map(|name| Ok((name, signal(SignalKind::from_raw(name as i32))?)));
        Ok(Self(streams.collect::<Result<_, CliError>>()?))
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            let mut streams = self.0.iter_mut();
            let came = streams
                .find_map(|(name, stream)| stream.poll_recv(context).is_ready().then_some(*name));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The signals that this process ignores, one bit for each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    field.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a signal asks the command to end, so that it must do so in time.
pub(super) fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGHUP)
}

/// The running command.
pub(super) struct LockedCommand {
    child: Child,
    /// The child's process id, which is also its group if it has one of its own.
    pid: Pid,
    /// The lock session, which marks the command and all that it starts.
    session: String,
    /// The terminal, if there is one. Without it the command has a process group of its own.
    terminal: Option<File>,
    /// Whether the command was asked to end.
    is_ending: bool,
}

impl LockedCommand {
    /// Refuses a program that does not exist, before the lock is taken for it.
    pub(super) fn check(command: &[OsString]) -> Result<(), CliError> {
        let Some(program) = command.first() else {
            return Err(CliError::Usage("a command is missing".into()));
        };
        let can_run = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
        let is_found = match std::env::var_os("PATH") {
            _ if program.as_bytes().contains(&b'/') => can_run(Path::new(program)),
            Some(path) => std::env::split_paths(&path).any(|dir| can_run(&dir.join(program))),
            // The system has a path of its own then.
            None => true,
        };
        if is_found {
            return Ok(());
        }
        let text = format!("{}: there is no such program", Path::new(program).display());
        Err(CliError::Usage(text))
    }

    /// Starts the command. `environment` must mark it with [`SESSION_VARIABLE`].
    pub(super) fn start(
        command: &[OsString],
        session: &str,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, CliError> {
        let [program, arguments @ ..] = command else {
            return Err(CliError::Usage("a command is missing".into()));
        };
        // This fails if there is no controlling terminal.
        let terminal = File::open("/dev/tty").ok();
        let mut command = Command::new(program);
        command.args(arguments).envs(environment).kill_on_drop(true);
        if terminal.is_none() {
            command.process_group(0);
        }
        let failed = |why: &dyn std::fmt::Display| {
            let program = Path::new(program).display();
            CliError::Failed(format!("{program}: {why}; the lock was given back"))
        };
        let private = super::UMASK_BEFORE.get().map(|before| umask(*before));
        let child = command.spawn();
        private.map(umask);
        let child = child.map_err(|error| failed(&maxine_wording::io(&error)))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = Pid::from_raw(pid.ok_or_else(|| failed(&"it has no process id"))?);
        Ok(Self { child, pid, session: session.into(), terminal, is_ending: false })
    }

    /// Waits until the command has ended; if it was asked to end, also until all has ended that it started.
    pub(super) async fn gone(&mut self) -> Result<ExitStatus, CliError> {
        let status = self.child.wait().await?;
        while self.is_ending && self.is_left() {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(status)
    }

    /// Passes a signal to the command and to what it started. A stopped command is continued, because it would not
    /// get the signal.
    pub(super) fn pass(&mut self, signal: Signal) {
        self.is_ending |= ends(signal);
        // The keyboard's signals reach the whole group in the foreground, and a second one has another effect on many
        // programs.
        if !(matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && self.is_in_foreground()) {
            self.send(signal);
        }
        self.send(Signal::SIGCONT);
    }

    /// Ends the command, because it must not run without the lock.
    pub(super) async fn end(&mut self) {
        self.pass(Signal::SIGTERM);
        if tokio::time::timeout(END_TIMEOUT, self.gone()).await.is_err() {
            self.kill();
            let _ended = self.child.wait().await;
        }
    }

    /// Ends the command and what it started at once. Nothing of it can refuse that.
    pub(super) fn kill(&mut self) {
        self.is_ending = false;
        self.send(Signal::SIGKILL);
    }

    fn is_in_foreground(&self) -> bool {
        let foreground = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        foreground == Some(getpgrp())
    }

    fn send(&self, signal: Signal) {
        // They may have ended already.
        if self.terminal.is_none() {
            let _gone = killpg(self.pid, signal);
            return;
        }
        if self.child.id().is_some() {
            let _gone = kill(self.pid, signal);
        }
        for pid in self.marked() {
            let _gone = kill(pid, signal);
        }
    }

    fn is_left(&self) -> bool {
        match self.terminal {
            Some(_) => !self.marked().is_empty(),
            None => killpg(self.pid, None).is_ok(),
        }
    }

    /// What the command has started, and itself. What has begun a terminal session of its own does not belong to it.
    fn marked(&self) -> Vec<Pid> {
        let mark = format!("{SESSION_VARIABLE}={}", self.session);
        let own = getsid(None).ok();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw)
        });
        let is_marked = |pid: &Pid| {
            let environment = || fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            getsid(Some(*pid)).ok() == own
                && environment().split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        pids.filter(|pid| *pid != self.pid).filter(is_marked).collect()
    }
}
