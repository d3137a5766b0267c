//! `maxine serve`: runs one node, with settings from a file, the environment and flags.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::service_manager::ServiceManager;
use crate::app::{Node, preflight, start_problems};
use crate::config::keys::{KEYS, Key};
use crate::config::{InvalidSettings, NodeConfig, unread_variables};

/// The flags of `maxine serve`: one for every setting, made from the table of settings.
#[derive(Clone, Debug, Default)]
pub struct ServeArgs {
    /// The TOML file.
    pub config: Option<PathBuf>,
    /// Whether the node stops when its standard input is closed.
    pub exit_with_stdin: bool,
    /// The values of the flags, by the name of the setting.
    pub flags: BTreeMap<&'static str, String>,
}

fn flag(key: &'static Key) -> Arg {
    let default = if key.default.is_empty() { "none" } else { key.default };
    let help = format!("{} [{}; default: {default}; env: {}]", key.help, key.range, key.env);
    let mut arg = Arg::new(key.name).long(key.flag).help(help).value_name(key.unit.to_uppercase());
    if key.flag == "port" {
        arg = arg.short('p');
    }
    match key.unit {
        "choice" => arg.value_parser(PossibleValuesParser::new(key.range.split(", "))),
        "switch" => arg.value_name("true|false").num_args(0..=1).default_missing_value("true"),
        _ => arg,
    }
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .help("A TOML file with settings; the environment and flags win over it")
            .value_parser(clap::value_parser!(PathBuf));
        let stdin = Arg::new("exit-with-stdin")
            .long("exit-with-stdin")
            .action(clap::ArgAction::SetTrue)
            .hide(true)
            .help("Stops when standard input is closed, so that no node outlives who started it");
        command.arg(config).arg(stdin).args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self {
            config: matches.get_one("config").cloned(),
            exit_with_stdin: matches.get_flag("exit-with-stdin"),
            ..Self::default()
        };
        for key in KEYS {
            if let Some(value) = matches.get_one::<String>(key.name) {
                args.flags.insert(key.name, value.clone());
            }
        }
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ServeArgs {
    /// Reads the settings and checks every file that they name.
    ///
    /// # Errors Everything that prevents the start.
    pub fn load(&self) -> Result<Loaded, InvalidSettings> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let config = NodeConfig::load(self.config.as_deref(), &environment, &self.flags)?;
        let problems = preflight(&config);
        if !problems.is_empty() {
            return Err(InvalidSettings(problems));
        }
        Ok(Loaded { config, unknown: unread_variables(&environment).unknown })
    }
}

/// Settings with which a node can start, and what must be reported to the operator nevertheless.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: NodeConfig,
    /// Variables of the environment that nothing reads.
    pub unknown: Vec<String>,
}

/// Runs the node until it is asked to stop, or until its log fails.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let Loaded { config, unknown } = match args.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            tell!("maxine: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    let start_problems = start_problems(&config);
    if !start_problems.is_empty() {
        start_problems.iter().for_each(|text| tell!("maxine: {text}"));
        return Ok(ExitCode::FAILURE);
    }
    // The waiting lines are written when this function ends, however it ends.
    let _log = super::log::start(&config)?;
    unknown.iter().for_each(|text| tracing::warn!("{text}"));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // From here on, it no longer ends the process.
    let mut hangup = signal(SignalKind::hangup())?;
    let manager = ServiceManager::of_environment();
    let node = Node::start(config).await?;
    manager.ready(node.http_addr());
    let failed = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        () = stdin_closed(args.exit_with_stdin) => None,
        why = node.failed() => Some(why),
        never = ignore_hangups(&mut hangup) => match never {},
        never = manager.report_progress(async |limit| node.stuck(limit).await) => match never {},
    };
    manager.stopping();
    if let Some(why) = &failed {
        tracing::error!(why, "this node cannot continue");
    }
    // A second signal ends the process without waiting for the graceful stop.
    tokio::select! {
        () = node.stop() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Says what SIGHUP does: nothing. Some programs read their settings again then. Never returns.
async fn ignore_hangups(hangup: &mut Signal) -> Infallible {
    loop {
        if hangup.recv().await.is_none() {
            return std::future::pending().await;
        }
        tracing::warn!(
            "SIGHUP: there is nothing to reload; settings need a restart, and changed certificates are read without one"
        );
    }
}

/// Returns when standard input is closed. If `matters` is false, it never returns.
async fn stdin_closed(matters: bool) {
    if !matters {
        return std::future::pending().await;
    }
    // The read has its own thread. A read on the runtime's blocking threads cannot be cancelled, and the
    // runtime would wait for it when the node is stopped in another way.
    let (closed, closing) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // At the end of the input and after an error alike, the process that held the other end is gone.
        let _end = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _stopping = closed.send(());
    });
    let _closed = closing.await;
}
