//! `maxine-chaos`: runs a scenario against real processes, and writes a report.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use maxine_chaos::cluster::Backend;
use maxine_chaos::journal::Journal;
use maxine_chaos::known_faults::{IN_TESTS, ON_PROCESSES};
use maxine_chaos::nemesis::{self, Fault};
use maxine_chaos::network::{Namespaces, NetworkKind};
use maxine_chaos::report::{Report, Start};
use maxine_chaos::scenario::{SCENARIOS, Scenario};
use maxine_chaos::simulation::{self, Plan};
use maxine_chaos::{clock, consensus, engine, program};

/// Breaks a running Maxine cluster on purpose and checks what its clients observed.
#[derive(Debug, Parser)]
#[command(name = "maxine-chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a scenario.
    Run(RunArgs),
    /// Runs seeds of the simulation
    Simulate(SimulateArgs),
    /// Lists the scenarios.
    List,
    /// Shows that deliberate faults are detected. Needs a program built with '--features faults'.
    Prove {
        /// The program
        #[arg(long)]
        program: PathBuf,
    },
    /// Repeats the schedule of a report
    Replay {
        /// The file report.json
        report: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The scenario; see 'maxine-chaos list'
    #[arg(long)]
    scenario: String,
    /// No episode begins after this many minutes
    #[arg(long, conflicts_with = "rounds")]
    minutes: Option<u64>,
    /// Number of episodes
    #[arg(long)]
    rounds: Option<u64>,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The backend that orders the commands
    #[arg(long, value_enum, default_value_t = BackendArg::Raft)]
    backend: BackendArg,
    /// The network between the nodes; by default, the one that the scenario needs
    #[arg(long, value_enum)]
    network: Option<NetworkArg>,
    /// Directory for the report
    #[arg(long, default_value = "chaos-report")]
    report: PathBuf,
    /// The previous version's program, for the fault 'upgrade'
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Only these faults of the scenario, separated by commas
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Keeps the nodes' data and logs in this directory, instead of one that is deleted at the end
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SimulateArgs {
    /// Number of seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Duration of each run, in virtual seconds
    #[arg(long, default_value_t = 60)]
    virtual_s: u64,
    /// Delays the leader's own proposals by up to seconds
    #[arg(long, conflicts_with = "consensus")]
    slow_proposals: bool,
    /// Uses the real consensus core for the order of the log, instead of an ideal one
    #[arg(long)]
    consensus: bool,
    /// Number of concurrent seeds (with '--consensus')
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// A deliberate fault, to see that it is detected
    #[arg(long)]
    fault: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    Raft,
    Redis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkArg {
    /// Loopback, with a proxy between the nodes.
    Proxied,
    /// A network namespace for each node; needs root.
    Namespaces,
}

fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List => list(),
        Command::Simulate(args) if args.consensus => simulate_consensus(&args),
        Command::Simulate(args) => simulate(&args),
        Command::Run(args) => run(args).await,
        Command::Prove { program } => prove(&program).await,
        Command::Replay { report } => replay(&report).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("maxine-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn list() -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    for scenario in SCENARIOS {
        let backends: Vec<&str> =
            scenario.backends.iter().map(|backend| backend_name(*backend)).collect();
        writeln!(out, "{:<18} {:<11} {}", scenario.name, backends.join(", "), scenario.about)?;
    }
    Ok(true)
}

/// The deliberate fault with this name.
fn fault_named<F: Copy>(name: Option<&str>, all: &[(F, &str)]) -> anyhow::Result<Option<F>> {
    let Some(name) = name else { return Ok(None) };
    let found = all.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault);
    let names = || all.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    found.map(Some).with_context(|| format!("no fault {name:?}; there are {}", names()))
}

fn simulate(args: &SimulateArgs) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    let fault = fault_named(args.fault.as_deref(), &simulation::Fault::all())?;
    let (mut applied, mut elections, mut handovers, mut expiries) = (0, 0, 0, 0);
    let (mut verdicts, mut refusals, mut fenced_off, mut failed) = (0, 0, 0, 0);
    for nth in 0..args.seeds {
        let seed = args.first_seed + nth;
        let plan = Plan {
            virtual_ms: args.virtual_s * 1_000,
            slow_proposals: args.slow_proposals,
            fault,
            ..Plan::new(seed)
        };
        let outcome = simulation::run(plan);
        applied += outcome.applied;
        elections += outcome.elections;
        expiries += outcome.expiries;
        handovers += outcome.handovers;
        verdicts += outcome.verdicts;
        refusals += outcome.refusals;
        fenced_off += outcome.fenced_off;
        if let Some(violation) = outcome.violation {
            failed += 1;
            writeln!(
                out,
                "seed {}: {} at {} ms: {}",
                plan.seed, violation.invariant, violation.at_ms, violation.detail
            )?;
            writeln!(out, "  again: {}", simulation::replay_command(&plan))?;
        }
        if (nth + 1).is_multiple_of(500) {
            eprintln!("{}/{} seeds, {failed} broken", nth + 1, args.seeds);
        }
    }
    writeln!(
        out,
        "{} seeds of {} virtual s: {applied} entries applied, {elections} elections, {handovers} handovers, \
         {expiries} expiries, {verdicts} verdicts, {refusals} writes refused, {fenced_off} entries refused, {failed} broken",
        args.seeds, args.virtual_s,
    )?;
    Ok(failed == 0)
}

fn simulate_consensus(args: &SimulateArgs) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    let fault = fault_named(args.fault.as_deref(), consensus::KNOWN_FAULTS)?;
    let seeds = args.first_seed..args.first_seed + args.seeds;
    let plan = |seed| consensus::Plan { fault, ..consensus::plan(seed, args.virtual_s * 1_000) };
    let mut total = consensus::Outcome::default();
    let (mut ended, mut broken) = (0_u64, Vec::new());
    consensus::run_all(seeds.map(plan).collect(), args.jobs.max(1), |plan, outcome| {
        ended += 1;
        add_up(&mut total, &outcome);
        if let Some(violation) = outcome.violation {
            broken.push((plan, violation));
        }
        if ended.is_multiple_of(500) {
            eprintln!("{ended}/{} seeds, {} broken", args.seeds, broken.len());
        }
    });
    broken.sort_by_key(|(plan, _)| plan.seed);
    for (plan, violation) in &broken {
        let (name, at_ms) = (violation.invariant, violation.at_ms);
        writeln!(out, "seed {}: {name} at {at_ms} ms: {}", plan.seed, violation.detail)?;
        writeln!(out, "  again: {}", consensus::replay_command(plan))?;
    }
    writeln!(
        out,
        "{} seeds of {} virtual s: {} steps, {} messages, {} entries applied, {} acknowledged, {} reads, {} leaders, \
         {} elections on false evidence, {} crashes that took {} unsynced writes, {} partitions, \
         {} membership changes, {} snapshots sent, {} broken",
        args.seeds,
        args.virtual_s,
        total.steps,
        total.messages,
        total.applied,
        total.acknowledged,
        total.reads,
        total.leaders,
        total.forged,
        total.crashes,
        total.writes_lost,
        total.partitions,
        total.member_changes,
        total.snapshots_installed,
        broken.len(),
    )?;
    Ok(broken.is_empty())
}

fn add_up(total: &mut consensus::Outcome, one: &consensus::Outcome) {
    total.steps += one.steps;
    total.messages += one.messages;
    total.applied += one.applied;
    total.acknowledged += one.acknowledged;
    total.reads += one.reads;
    total.forged += one.forged;
    total.leaders += one.leaders;
    total.crashes += one.crashes;
    total.writes_lost += one.writes_lost;
    total.partitions += one.partitions;
    total.member_changes += one.member_changes;
    total.snapshots_installed += one.snapshots_installed;
}

fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Raft => "raft",
        Backend::Redis => "redis",
        Backend::SharedFile => "shared-file",
        Backend::Local => "local",
    }
}

async fn prove(program: &Path) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    let mut all_caught = true;
    let verdict = |caught: bool| if caught { "caught" } else { "NOT CAUGHT" };
    for known in ON_PROCESSES {
        let scenario = Scenario::find(known.scenario).context("a scenario of the list")?;
        let mut options = scenario.options(Backend::Raft, None, 1, known.rounds);
        options.program = Some(program.to_owned());
        options.env.push(("MAXINE_FAULT".into(), known.fault.into()));
        let dir = tempfile::tempdir()?;
        let journal = Arc::new(Journal::default());
        engine::run(&options, dir.path(), &journal).await?;
        let records = journal.records();
        let found = records.anomalies.iter().filter(|anomaly| anomaly.check == known.check).count();
        all_caught &= found > 0;
        writeln!(
            out,
            "{}: {} by {} in {} ({found} anomalies)",
            known.fault,
            verdict(found > 0),
            known.check,
            known.scenario
        )?;
    }
    // Next to the program that was built with the faults: `target/faults/debug/maxine`.
    let target = program.ancestors().nth(2).unwrap_or(Path::new("target/faults"));
    for known in IN_TESTS {
        let caught = known.is_caught(target)?;
        all_caught &= caught;
        writeln!(out, "{}: {} by {}", known.fault, verdict(caught), known.test)?;
    }
    Ok(all_caught)
}

async fn replay(path: &Path) -> anyhow::Result<bool> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let report: Report = serde_json::from_slice(&bytes).context("this is no report")?;
    let start = report.start;
    let parsed = |text: &str| BackendArg::from_str(text, true).map_err(anyhow::Error::msg);
    let dir = path.parent().unwrap_or(Path::new(".")).join("replay");
    let network = NetworkArg::from_str(&start.network, true).ok();
    run(RunArgs {
        scenario: start.scenario,
        minutes: None,
        rounds: Some(report.episodes.max(1)),
        seed: start.seed,
        backend: parsed(&start.backend)?,
        network,
        report: dir,
        previous: start.previous.map(PathBuf::from),
        faults: start
            .faults
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()
            .map_err(anyhow::Error::msg)?,
        keep: None,
    })
    .await
}

async fn run(args: RunArgs) -> anyhow::Result<bool> {
    let scenario = Scenario::find(&args.scenario)
        .with_context(|| format!("no scenario {:?}; see 'maxine-chaos list'", args.scenario))?;
    let backend = match args.backend {
        BackendArg::Raft => Backend::Raft,
        BackendArg::Redis => Backend::Redis,
    };
    if !scenario.backends.contains(&backend) {
        bail!("{} does not run on {}", scenario.name, name_of(args.backend));
    }
    let network = args.network.map(|network| match network {
        NetworkArg::Proxied => NetworkKind::Proxied,
        NetworkArg::Namespaces => NetworkKind::Namespaces,
    });
    let mut options =
        scenario.options(backend, network, args.seed, args.rounds.unwrap_or(u64::MAX));
    if options.network == NetworkKind::Namespaces && !Namespaces::are_available() {
        bail!("network namespaces cannot be made here: root, 'ip' and 'nft' are needed");
    }
    options.previous = args.previous.clone();
    if !args.faults.is_empty() {
        options.faults.retain(|fault| args.faults.contains(fault));
    }
    let skipped = skip_impossible(&mut options)?;
    options.progress = true;
    options.time = match (args.minutes, args.rounds) {
        (Some(minutes), _) => Duration::from_secs(minutes * 60),
        (None, Some(_)) => options.time,
        (None, None) => Scenario::DEFAULT_TIME,
    };
    let start = Start {
        scenario: scenario.name.into(),
        backend: name_of(args.backend),
        network: match options.network {
            NetworkKind::Namespaces => "namespaces".into(),
            _ => "proxied".into(),
        },
        seed: args.seed,
        rounds: options.rounds,
        seconds: options.time.as_secs(),
        previous: args.previous.map(|path| path.display().to_string()),
        faults: args.faults.iter().map(Fault::to_string).collect(),
    };
    let started_us = clock::now_us();
    let temporary = tempfile::tempdir()?;
    let dir = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    let journal = Arc::new(Journal::default());
    let ended = tokio::select! {
        ended = engine::run(&options, &dir, &journal) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let error = ended.err().map(|error| format!("{error:#}"));
    let records = journal.records();
    let program = program::locate()?;
    let built = if program.components().any(|part| part.as_os_str() == "release") {
        "release"
    } else {
        "debug"
    };
    let mut report = Report::new(start, built.into(), &records, error);
    report.skipped = skipped;
    report.write(&records, &args.report)?;
    write_report(&report, &args.report, (clock::now_us() - started_us) / 1_000_000)?;
    if !report.is_clean() && args.keep.is_none() {
        let kept = temporary.keep();
        eprintln!("the nodes' data and logs are kept in {}", kept.display());
    }
    Ok(report.is_clean())
}

/// Leaves out faults that this machine cannot produce, and reports them.
fn skip_impossible(options: &mut engine::Options) -> anyhow::Result<BTreeMap<String, String>> {
    let previous = options.previous.clone();
    let mut skipped = BTreeMap::new();
    options.faults.retain(|fault| match nemesis::missing(*fault, previous.as_deref()) {
        None => true,
        Some(missing) => {
            eprintln!("SKIPPED: {fault} needs {missing}");
            skipped.insert(fault.to_string(), missing);
            false
        }
    });
    if options.faults.is_empty() {
        bail!("none of the scenario's faults can be done here: {skipped:?}");
    }
    Ok(skipped)
}

fn write_report(report: &Report, dir: &Path, took_s: u64) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {} episodes, {} operations in {took_s} s, {} anomalies; {}",
        report.start.scenario,
        report.episodes,
        report.operations_total,
        report.anomalies.len(),
        dir.join("report.html").display(),
    )?;
    for (kind, figures) in &report.faults {
        writeln!(
            out,
            "  {kind}: {} ({} on the leader), no write for p50 {} max {} ms (leader: {} / {}), recovery p50 {} max {} ms",
            figures.count,
            figures.hit_leader,
            figures.unavailable.p50_ms,
            figures.unavailable.max_ms,
            figures.unavailable_leader_hit.p50_ms,
            figures.unavailable_leader_hit.max_ms,
            figures.recovery.p50_ms,
            figures.recovery.max_ms,
        )?;
    }
    for anomaly in report.anomalies.iter().take(20) {
        writeln!(out, "  ANOMALY {}: {}", anomaly.check, anomaly.detail)?;
    }
    if let Some(error) = &report.harness_error {
        writeln!(out, "  the run ended early: {error}")?;
    }
    if !report.is_clean() {
        writeln!(out, "  again: maxine-chaos replay {}", dir.join("report.json").display())?;
    }
    Ok(())
}
