//! Child processes, the cores on which they run, and their figures from the kernel.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::failed;
use maxine::cli::exit::CliError;

/// Ticks of the kernel's process clock in a second (`USER_HZ`, which is 100 on x86-64 and ARM).
const TICKS_PER_SECOND: u64 = 100;

/// A server under measurement. It is killed when this value is dropped, so that none outlives the
/// measurement.
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// Starts `command`, on one core if one is given, with its output in `dir/log`.
    pub(super) fn start(
        mut command: Command,
        dir: &Path,
        core: Option<usize>,
    ) -> Result<Self, CliError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = super::log_file(dir)?;
        let errors = log.try_clone().map_err(failed(dir.display()))?;
        // A pipe to its standard input: a node stops when this process ends and the pipe closes.
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        let child = on_core(core, || command.spawn())?.map_err(failed(name))?;
        Ok(Self { child })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        // A child that has ended stays a zombie until it is waited for.
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        text.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    }

    /// Kills it as a crash would (SIGKILL), without waiting.
    pub(super) fn kill_now(&mut self) {
        // An error means that it has already ended, which is fine.
        let _ = self.child.kill();
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid()) {
            // An error means that it has ended already.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits until it has ended.
    pub(super) fn wait(&mut self) {
        // An error means that it was waited for before.
        let _ = self.child.wait();
    }

    /// Kills it and waits until it has ended. Also kills the workers that it forked.
    pub(super) fn kill(&mut self) {
        let workers = self.pids();
        self.kill_now();
        let _ = self.child.wait();
        for worker in &workers[1..] {
            if let Ok(pid) = i32::try_from(*worker) {
                // An error means that it has ended already.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Processor time of the process and its forked workers, in microseconds.
    pub(super) fn cpu_us(&self) -> u64 {
        self.pids().into_iter().map(cpu_us_of).sum()
    }

    /// Resident memory of the process and its forked workers, in bytes.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.pids().into_iter().map(resident_bytes_of).sum()
    }

    fn pids(&self) -> Vec<u32> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(pid).chain(children).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn cpu_us_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may contain spaces. Field 3 follows it.
    let fields: Vec<&str> =
        text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    ticks * 1_000_000 / TICKS_PER_SECOND
}

fn resident_bytes_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .unwrap_or(0)
        * 1_024
}

/// Number of cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs `work` with this thread bound to one core; not bound without `core`, or if there is only one core. A
/// process that `work` starts stays bound to the core.
pub(super) fn on_core<T>(core: Option<usize>, work: impl FnOnce() -> T) -> Result<T, CliError> {
    let failure = |error: nix::Error| CliError::Failed(format!("binding to a core: {error}"));
    let me = Pid::from_raw(0);
    let Some(core) = core.filter(|_| cores() > 1) else { return Ok(work()) };
    let before = sched_getaffinity(me).map_err(failure)?;
    let mut one = CpuSet::new();
    let allowed: Vec<usize> =
        (0..CpuSet::count()).filter(|core| before.is_set(*core).unwrap_or(false)).collect();
    one.set(allowed[core % allowed.len()]).map_err(failure)?;
    sched_setaffinity(me, &one).map_err(failure)?;
    let result = work();
    sched_setaffinity(me, &before).map_err(failure)?;
    Ok(result)
}

/// Runs a future to its end on a separate thread, bound to one core.
pub(super) async fn on_own_thread<T, F, M>(core: usize, make: M) -> Result<T, CliError>
where
    T: Send + 'static,
    F: Future<Output = T>,
    M: FnOnce() -> F + Send + 'static,
{
    let worker = tokio::task::spawn_blocking(move || {
        on_core(Some(core), || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map(|runtime| runtime.block_on(make()))
                .map_err(failed("a runtime for the load"))
        })?
    });
    worker.await.map_err(|error| CliError::Failed(format!("the load generator ended: {error}")))?
}

/// Raises the limit of open files, which servers inherit that are started later. Returns the present limit.
pub(super) fn raise_file_limit() -> u64 {
    let wanted = 65_536;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    // Only root may raise the hard limit. If that fails, the soft limit is raised to the hard limit.
    if hard >= wanted || setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    getrlimit(Resource::RLIMIT_NOFILE).map_or(soft, |(soft, _)| soft)
}

/// Polls until `ready` returns true.
pub(super) async fn wait_until<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> F,
) -> Result<(), CliError> {
    let wait = async {
        while !ready().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, wait).await.map_err(|_| {
        CliError::Failed(format!(
            "{what}: not within {} s; see the log in --dir with --keep",
            limit.as_secs()
        ))
    })
}

/// Whether the directory is on a file system in memory.
pub(super) fn is_memory_filesystem(dir: &Path) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    statfs(dir).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
}

/// A description of the machine.
pub(super) fn machine(dir: &Path) -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown processor".into());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let disk = if is_memory_filesystem(dir) { "data in memory" } else { "data on disk" };
    format!(
        "{processor}, {} cores, Linux {}, {disk}; Maxine {}",
        cores(),
        kernel.trim(),
        env!("CARGO_PKG_VERSION")
    )
}
