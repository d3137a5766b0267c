//! The commands that send requests to a cluster, and how they end.

use std::io::Write;

use super::client::ConnectArgs;
use super::exit::{self, CliError};
use super::output::{Format, Output};
use super::{
    alerts, checks, cluster, diagnose, doctor, explain, health, instances, journal, kv, lock,
    log_level, login, policy, services, tokens, users, watch, why,
};

/// The client commands. They are flattened into the commands of the program.
#[derive(Debug, clap::Subcommand)]
pub enum ClientCommand {
    /// List, show and delete services
    Services(services::ServicesArgs),
    /// Register an instance of a service
    Register(instances::RegisterArgs),
    /// Remove an instance from the registry
    Deregister(instances::DeregisterArgs),
    /// Take an instance out of traffic, but keep it registered
    Drain(instances::DrainArgs),
    /// Put a drained instance back into traffic
    Undrain(instances::UndrainArgs),
    /// Explain why an instance gets traffic or not, since when, and show its last probes
    Why(why::WhyArgs),
    /// Explain a decision, such as which instance a caller gets
    Explain(explain::ExplainArgs),
    /// List the checks of an instance, and report those that its owner makes
    Checks(checks::ChecksArgs),
    /// Ask whether a node answers, or with --ready whether it can do all of its work
    Health(health::HealthArgs),
    /// Resolve a service: print the URL of the instance that a caller is sent to
    Resolve(instances::ResolveArgs),
    /// Print changes as they happen
    Watch(watch::WatchArgs),
    /// Show and change a service's policy
    Policy(policy::PolicyArgs),
    /// Read and change keys
    Kv(kv::KvArgs),
    /// List and end the sessions that hold locks
    Session(lock::SessionArgs),
    /// Run a command while holding a lock
    Lock(lock::LockArgs),
    /// Show and change the cluster: members, leadership, backups, recovery
    Cluster(cluster::ClusterArgs),
    /// Show the alerts of every node; acknowledge and silence alerts
    Alerts(alerts::AlertsArgs),
    /// Check the nodes of a cluster, and say what to do about each finding
    Doctor(doctor::DoctorArgs),
    /// Write what is needed to look into a problem into one archive
    Diagnose(diagnose::DiagnoseArgs),
    /// Show and set the levels of the nodes' own logs, for a time
    LogLevel(log_level::LogLevelArgs),
    /// Show, export and verify the audit log
    Audit(journal::AuditArgs),
    /// Sign in and store the session
    Login(login::LoginArgs),
    /// End the session and delete it from this machine
    Logout(login::LogoutArgs),
    /// List, add and remove users, and change their roles
    User(users::UserArgs),
    /// Change a password: your own, or as an administrator that of another user
    Passwd(users::PasswdArgs),
    /// List, create and revoke API tokens
    Token(tokens::TokenArgs),
    /// List and rotate the keys that sign sessions
    Key(tokens::KeyArgs),
}

impl ClientCommand {
    /// How to write results.
    fn format(&self) -> Format {
        let connect: &ConnectArgs = match self {
            Self::Services(args) => args.connect(),
            Self::Register(args) => args.connect(),
            Self::Deregister(args) => args.connect(),
            Self::Drain(args) => args.connect(),
            Self::Undrain(args) => args.connect(),
            Self::Why(args) => args.connect(),
            Self::Explain(args) => args.connect(),
            Self::Checks(args) => args.connect(),
            Self::Health(args) => args.connect(),
            Self::Resolve(args) => args.connect(),
            Self::Watch(args) => args.connect(),
            Self::Policy(args) => args.connect(),
            Self::Kv(args) => args.connect(),
            Self::Session(args) => args.connect(),
            Self::Lock(args) => args.connect(),
            Self::Cluster(args) => return args.format(),
            Self::Alerts(args) => args.connect(),
            Self::Doctor(args) => args.connect(),
            Self::Diagnose(args) => args.connect(),
            Self::LogLevel(args) => args.connect(),
            Self::Audit(args) => args.connect(),
            Self::Login(args) => args.connect(),
            Self::Logout(args) => args.connect(),
            Self::User(args) => args.connect(),
            Self::Passwd(args) => args.connect(),
            Self::Token(args) => args.connect(),
            Self::Key(args) => args.connect(),
        };
        connect.output.format
    }

    /// Runs the command, writes an error to `errors`, and returns the exit code.
    pub async fn run(self, errors: &mut dyn Write) -> u8 {
        let format = self.format();
        let mut out = Output::stdout(format);
        finish(self.carry_out(&mut out).await, format, errors)
    }

    async fn carry_out(self, out: &mut Output) -> Result<(), CliError> {
        match self {
            Self::Services(args) => services::run(args, out).await,
            Self::Register(args) => instances::register(args, out).await,
            Self::Deregister(args) => instances::deregister(args, out).await,
            Self::Drain(args) => instances::drain(args, out).await,
            Self::Undrain(args) => instances::undrain(args, out).await,
            Self::Why(args) => why::run(args, out).await,
            Self::Explain(args) => explain::run(args, out).await,
            Self::Checks(args) => checks::run(args, out).await,
            Self::Health(args) => health::run(args, out).await,
            Self::Resolve(args) => instances::resolve(args, out).await,
            Self::Watch(args) => watch::run(args, out).await,
            Self::Policy(args) => policy::policy(args, out).await,
            Self::Kv(args) => kv::run(args, out).await,
            Self::Session(args) => lock::session(args, out).await,
            Self::Lock(args) => lock::lock(args, out).await,
            Self::Cluster(args) => cluster::run(args, out).await,
            Self::Alerts(args) => alerts::run(args, out).await,
            Self::Doctor(args) => doctor::run(args, out).await,
            Self::Diagnose(args) => diagnose::run(args, out).await,
            Self::LogLevel(args) => log_level::run(args, out).await,
            Self::Audit(args) => journal::audit(args, out).await,
            Self::Login(args) => login::login(args, out).await,
            Self::Logout(args) => login::logout(&args, out).await,
            Self::User(args) => users::user(args, out).await,
            Self::Passwd(args) => users::passwd(args, out).await,
            Self::Token(args) => tokens::token(args, out).await,
            Self::Key(args) => tokens::key(args, out).await,
        }
    }
}

/// Ends a command: reports its error and returns its exit code.
pub fn finish(result: Result<(), CliError>, format: Format, errors: &mut dyn Write) -> u8 {
    match result {
        Ok(()) => exit::OK,
        Err(error) => error.report(format, errors),
    }
}
