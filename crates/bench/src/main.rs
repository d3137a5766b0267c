//! `maxine-bench`: the measurements of the project, taken side by side in one run on one machine.
//!
//! It starts every server as a child process on loopback, on free ports, with its data in one directory, and
//! stops each by its process id. It measures the `maxine` program over real sockets with real syncs. Of the
//! server's code it uses only what the command line uses to call a cluster.

mod backends;
mod bare;
mod consul;
mod discovery;
mod etcd;
mod failover;
mod grpc;
mod heartbeats;
mod load;
mod memory;
mod node;
mod one_write;
mod process;
mod propagation;
mod proxy;
mod redis;
mod registrations;
mod report;
mod traces;
mod turns;
mod watchers;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use maxine::cli::commands::finish;
use maxine::cli::exit::CliError;
use maxine::cli::output::{Output, OutputArgs};
use maxine_clock::Clock;
use report::{Report, Section};
use serde_json::json;

/// The bare servers use the same allocator as Maxine, with which they are compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Maxine on this machine, side by side with etcd, nginx, HAProxy and bare servers.
#[derive(Debug, Parser)]
#[command(name = "maxine-bench", version, about, max_term_width = 100)]
struct BenchArgs {
    #[command(subcommand)]
    what: What,
    /// The `maxine` program to measure [default: the one beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    program: Option<PathBuf>,
    /// How long each figure is measured, in seconds (1 to 120); a turn of redirects takes a third of it
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// Directory for the servers' data, on the disk to be measured; created if missing, removed at the end
    #[arg(long, global = true, value_name = "DIR", default_value = "maxine-bench")]
    dir: PathBuf,
    /// Keep the directory with the servers' data and logs
    #[arg(long, global = true)]
    keep: bool,
    /// Leave etcd out of the comparison
    #[arg(long, global = true)]
    no_etcd: bool,
    /// Also write the figures to this Markdown file
    #[arg(long, global = true, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
enum What {
    /// Redirects per second beside a bare server with a fixed answer, one core each
    Discovery,
    /// Durable registrations per second on three nodes beside etcd's puts
    Registrations,
    /// Heartbeats per second through the batch endpoint
    Heartbeats,
    /// The reverse proxy beside HAProxy and nginx, each on one core: throughput, added latency, idle connections
    Proxy,
    /// Look-ups and forwarded requests without the export of traces, with 1 % of them, and with all
    Traces,
    /// Memory per instance and restart time with many instances
    Memory {
        /// How many instances (1000 to 1000000)
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
        instances: u64,
    },
    /// Discovery with thousands of watchers, beside discovery without watchers
    Watchers {
        /// How many watchers (1 to 20000); each needs two open files
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
        watchers: u64,
    },
    /// Consul's API beside the native API: reads, TTL passes, registrations, blocked readers
    Consul {
        /// How many blocked readers, and native watchers (1 to 18000); each needs two open files
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=18_000))]
        readers: u64,
    },
    /// Time from an acknowledged write until a watcher on another node receives the change
    Propagation,
    /// Time from a fault of the leader to the next acknowledged write through another node
    Failover {
        /// How many trials (1 to 200)
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
        trials: u32,
        /// What happens to the leader [default: each of them]
        #[arg(long, value_enum)]
        fault: Option<failover::Fault>,
    },
    /// The same load on every backend: discovery, registrations, propagation, failover
    Backends {
        /// How often the leader is killed on each (1 to 50)
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
        trials: u32,
    },
    /// All of them
    All,
    /// The bare server that discovery is compared with
    #[command(hide = true)]
    Bare {
        /// The port on loopback
        #[arg(long)]
        port: u16,
    },
    /// The bare proxy that the reverse proxy is compared with
    #[command(hide = true)]
    BareProxy {
        /// The port on loopback
        #[arg(long)]
        port: u16,
        /// The address to which it forwards
        #[arg(long)]
        upstream: std::net::SocketAddr,
    },
}

/// The settings of a run, which every measurement uses, and the notes for its report.
struct Bench {
    /// The `maxine` program that is measured.
    program: PathBuf,
    /// How long each figure is measured.
    seconds: u64,
    dir: PathBuf,
    with_etcd: bool,
    clock: Clock,
    notes: Vec<String>,
}

impl Bench {
    /// An empty directory for one server's data. If it exists, its old content is deleted.
    fn place(&self, name: &str) -> Result<PathBuf, CliError> {
        let dir = self.dir.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = BenchArgs::parse();
    let format = args.output.format;
    let result = Box::pin(run(args, &mut Output::stdout(format))).await;
    ExitCode::from(finish(result, format, &mut std::io::stderr()))
}

async fn run(args: BenchArgs, out: &mut Output) -> Result<(), CliError> {
    if let What::Bare { port } = args.what {
        return bare::serve(port).await;
    }
    if let What::BareProxy { port, upstream } = args.what {
        return proxy::serve_bare(port, upstream).await;
    }
    let existed = args.dir.exists();
    if existed && args.dir.read_dir()?.next().is_some() && !args.dir.join(MARK).exists() {
        return Err(CliError::Usage(format!(
            "--dir {}: it holds something else; name an empty one",
            args.dir.display()
        )));
    }
    std::fs::create_dir_all(&args.dir)?;
    std::fs::write(args.dir.join(MARK), "made by maxine-bench; may be deleted\n")?;
    let dir = args.dir.canonicalize()?;
    let mut bench = Bench {
        program: maxine_program(args.program.as_deref())?,
        seconds: args.seconds,
        dir: dir.clone(),
        with_etcd: !args.no_etcd,
        clock: Clock::system(),
        notes: Vec::new(),
    };
    bench.check_surroundings();
    let sections = bench.measure(&args.what, out).await;
    if !args.keep {
        // Files that cannot be deleted stay: the report is more important.
        let _ = std::fs::remove_dir_all(&dir);
    }
    let report =
        Report { machine: process::machine(&dir), notes: bench.notes, sections: sections? };
    if let Some(file) = &args.markdown {
        std::fs::write(file, report.markdown(&command_line(&args)))?;
    }
    match out.is_json() {
        true => out.json(&report.json()),
        false => out.line(report.text()),
    }
}

/// A file that marks a directory as used by this program, so the next run may delete what is in it.
const MARK: &str = ".maxine-bench";

fn command_line(args: &BenchArgs) -> String {
    let what = format!("{:?}", args.what).split_whitespace().next().unwrap_or("All").to_lowercase();
    format!("maxine-bench {what} --seconds {}", args.seconds)
}

impl Bench {
    fn check_surroundings(&mut self) {
        if cfg!(debug_assertions) {
            self.notes.push(
                "this is a debug build: its figures say nothing; build with --release".into(),
            );
        }
        if process::cores() < 2 {
            self.notes.push(
                "one core only: servers and load share it, so throughput is understated".into(),
            );
        }
        if process::is_memory_filesystem(&self.dir) {
            self.notes.push(
                "--dir is in memory, where a sync costs nothing: durable writes are overstated"
                    .into(),
            );
        }
        if self.with_etcd && !etcd::is_installed() {
            self.with_etcd = false;
            self.notes.push("etcd is not installed, so its column is missing (Debian: apt-get install etcd-server)".into());
        }
    }

    async fn measure(&mut self, what: &What, out: &mut Output) -> Result<Vec<Section>, CliError> {
        let all: Vec<What> = match what {
            What::All => vec![
                What::Discovery,
                What::Proxy,
                What::Traces,
                What::Registrations,
                What::Heartbeats,
                What::Watchers { watchers: 10_000 },
                What::Consul { readers: 10_000 },
                What::Propagation,
                What::Failover { trials: 20, fault: None },
                What::Memory { instances: 100_000 },
                What::Backends { trials: 3 },
            ],
            one => vec![one.clone()],
        };
        let mut sections = Vec::new();
        for what in all {
            if !out.is_json() {
                out.line(format!("measuring {what:?} ..."))?;
            } else {
                out.json(&json!({"measuring": format!("{what:?}")}))?;
            }
            sections.push(match what {
                What::Proxy => {
                    sections.extend(proxy::measure(self).await?);
                    continue;
                }
                What::Registrations => {
                    sections.extend(registrations::measure(self).await?);
                    continue;
                }
                What::Consul { readers } => {
                    sections.extend(Box::pin(consul::measure(self, readers)).await?);
                    continue;
                }
                What::Discovery => discovery::measure(self).await?,
                What::Traces => traces::measure(self).await?,
                What::Heartbeats => heartbeats::measure(self).await?,
                What::Memory { instances } => memory::measure(self, instances).await?,
                What::Watchers { watchers } => watchers::measure(self, watchers).await?,
                What::Propagation => propagation::measure(self).await?,
                What::Failover { trials, fault } => failover::measure(self, trials, fault).await?,
                What::Backends { trials } => Box::pin(backends::measure(self, trials)).await?,
                What::All | What::Bare { .. } | What::BareProxy { .. } => continue,
            });
        }
        Ok(sections)
    }
}

/// An error that names the failed action.
fn failed(doing: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> CliError {
    move |error| CliError::Failed(format!("{doing}: {error}"))
}

/// The `maxine` program to measure: `named`, or the one in this program's own directory.
fn maxine_program(named: Option<&Path>) -> Result<PathBuf, CliError> {
    let program = match named {
        Some(named) => named.to_path_buf(),
        None => own_program()?.with_file_name("maxine"),
    };
    program.canonicalize().map_err(|error| {
        CliError::Usage(format!(
            "{}: {error}; build it with 'cargo build --release', or name one with --program",
            program.display()
        ))
    })
}

/// The path of this program, which also runs the bare servers.
fn own_program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(failed("this program's own path"))
}

/// A port on loopback that is free now.
fn free_port() -> Result<u16, CliError> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(failed("a free port"))?;
    Ok(listener.local_addr().map_err(failed("a free port"))?.port())
}

fn log_file(dir: &Path) -> Result<std::fs::File, CliError> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .map_err(failed(dir.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_fits_together() {
        BenchArgs::command().debug_assert();
    }
}
