//! The commands that speak to a cluster, in one table, and the one way they end.

use std::io::Write;

use super::client::ConnectArgs;
use super::exit::{self, CliError};
use super::output::Output;
use super::{alerts, cluster, instances, journal, login, services, settings, watch, why};

/// The client commands; flattened into the program's own.
#[derive(Debug, clap::Subcommand)]
pub enum ClientCommand {
    /// Lists and shows services
    Services(services::ServicesArgs),
    /// Registers an instance of a service
    Register(instances::RegisterArgs),
    /// Takes an instance out of the registry
    Deregister(instances::DeregisterArgs),
    /// Takes an instance out of traffic without deregistering it
    Drain(instances::DrainArgs),
    /// Puts a drained instance back into traffic
    Undrain(instances::UndrainArgs),
    /// Says why an instance gets traffic or does not, since when, and what was last seen of it
    Why(why::WhyArgs),
    /// Says which instance a caller is sent to
    Resolve(instances::ResolveArgs),
    /// Shows changes as they happen
    Watch(watch::WatchArgs),
    /// Shows and changes a service's policy
    Policy(settings::PolicyArgs),
    /// Shows and changes the cluster: members, leadership, backups, recovery
    Cluster(cluster::ClusterArgs),
    /// Shows the alerts of every node, and says which are looked after
    Alerts(alerts::AlertsArgs),
    /// Shows, exports and verifies the audit log
    Audit(journal::AuditArgs),
    /// Signs in and keeps the session
    Login(login::LoginArgs),
    /// Forgets the session
    Logout(login::LogoutArgs),
}

impl ClientCommand {
    fn connect(&self) -> &ConnectArgs {
        match self {
            Self::Services(args) => args.connect(),
            Self::Register(args) => args.connect(),
            Self::Deregister(args) => args.connect(),
            Self::Drain(args) => args.connect(),
            Self::Undrain(args) => args.connect(),
            Self::Why(args) => args.connect(),
            Self::Resolve(args) => args.connect(),
            Self::Watch(args) => args.connect(),
            Self::Policy(args) => args.connect(),
            Self::Cluster(args) => args.connect(),
            Self::Alerts(args) => args.connect(),
            Self::Audit(args) => args.connect(),
            Self::Login(args) => args.connect(),
            Self::Logout(args) => args.connect(),
        }
    }

    /// Carries it out, tells an error on `errors`, and gives the exit code.
    pub async fn run(self, errors: &mut dyn Write) -> u8 {
        let format = self.connect().output;
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
            Self::Resolve(args) => instances::resolve(args, out).await,
            Self::Watch(args) => watch::run(args, out).await,
            Self::Policy(args) => settings::policy(args, out).await,
            Self::Cluster(args) => cluster::run(args, out).await,
            Self::Alerts(args) => alerts::run(args, out).await,
            Self::Audit(args) => journal::audit(args, out).await,
            Self::Login(args) => login::login(args, out).await,
            Self::Logout(args) => login::logout(&args, out),
        }
    }
}

/// Ends a command: tells its error and gives its exit code.
pub fn finish(
    result: Result<(), CliError>,
    format: super::output::Format,
    errors: &mut dyn Write,
) -> u8 {
    match result {
        Ok(()) => exit::OK,
        Err(error) => error.report(format, errors),
    }
}
