//! `maxine services`: lists, shows and deletes services.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::client::{Client, ConnectArgs, FreshArgs, Request, shapes};
use super::exit::CliError;
use super::instances::ServiceArg;
use super::output::{Output, or_dash};
use maxine_api::native::ServiceHealth;
use maxine_state::{Liveness, Readiness};

/// How long the status is waited for, which is shown with a list only if it matters, in milliseconds.
const NOTE_MS_MAX: u64 = 2_000;
/// Maximum number of services that a list shows by default.
const LIST_MAX: u32 = 1_000;

/// Arguments of `maxine services`.
#[derive(Debug, clap::Args)]
pub struct ServicesArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List services (the default, with the same options)
    List(ListArgs),
    /// Show one service and its instances
    Show(ShowArgs),
    /// Remove a service with all its instances, drains and its policy
    Delete(DeleteArgs),
}

#[derive(Debug, PartialEq, Eq, clap::Args)]
struct ListArgs {
    /// Only this namespace
    #[arg(long, short = 'n', value_name = "NAME", env = "MAXINE_NAMESPACE")]
    namespace: Option<String>,
    /// Only names that contain this text; upper and lower case are the same
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only services in this state
    #[arg(long, value_name = "STATE", value_parser = health_parser())]
    health: Option<ServiceHealth>,
    /// Maximum number of services to show (1 to 100000)
    #[arg(long, value_name = "N", default_value_t = LIST_MAX, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    fresh: FreshArgs,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// Only instances in this zone
    #[arg(long)]
    zone: Option<String>,
    /// Only instances with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Maximum number of instances to show (1 to 100000)
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    fresh: FreshArgs,
}

#[derive(Debug, clap::Args)]
struct DeleteArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

impl ServicesArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

fn health_parser() -> impl TypedValueParser<Value = ServiceHealth> {
    let names = ServiceHealth::ALL.map(ServiceHealth::as_str);
    PossibleValuesParser::new(names).try_map(|name| {
        let named = ServiceHealth::ALL.into_iter().find(|health| health.as_str() == name);
        named.ok_or("no such state")
    })
}

/// Runs `maxine services`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: ServicesArgs, out: &mut Output) -> Result<(), CliError> {
    if args.action.is_some() && args.list != ListArgs::untouched() {
        let text =
            "the options of 'maxine services list' come after 'list', and go with no other command";
        return Err(CliError::Usage(text.into()));
    }
    match args.action {
        None => list(&args.connect, &args.list, out).await,
        Some(Action::List(action)) => list(&args.connect, &action, out).await,
        Some(Action::Show(action)) => show(&args.connect, &action, out).await,
        Some(Action::Delete(action)) => delete(&args.connect, &action, out).await,
    }
}

impl ListArgs {
    /// Whether some services may be left out. If so, an empty list does not mean that there are none.
    fn is_filtered(&self) -> bool {
        self.namespace.is_some() || self.search.is_some() || self.health.is_some()
    }

    /// The arguments if none is given on the command line.
    fn untouched() -> Self {
        Self {
            namespace: std::env::var("MAXINE_NAMESPACE").ok(),
            search: None,
            health: None,
            limit: LIST_MAX,
            fresh: FreshArgs::default(),
        }
    }
}

async fn list(connect: &ConnectArgs, args: &ListArgs, out: &mut Output) -> Result<(), CliError> {
    let request = Request::get(&["services"])
        .query("namespace", args.namespace.as_ref())
        .query("q", args.search.as_ref())
        .query("health", args.health.map(ServiceHealth::as_str));
    let client = connect.client()?;
    let list = client.list(&args.fresh.of(request), args.limit as usize).await?;
    if out.is_json() {
        return list.items.iter().try_for_each(|item| out.json(item));
    }
    let services: Vec<shapes::ServiceSummary> = list.read()?;
    if services.is_empty() && args.is_filtered() {
        return out.line("no service matches the namespace, --search and --health that are set");
    }
    if services.is_empty() {
        return out.line("no services; register one with 'maxine register SERVICE --address URL'");
    }
    let rows = services
        .into_iter()
        .map(|s| {
            let counts = [s.instances, s.routable, s.unhealthy, s.evicted, s.draining]
                .map(|n| n.to_string());
            [
                vec![s.namespace, s.name, s.health.as_str().to_owned()],
                counts.to_vec(),
                vec![or_dash(s.strategy)],
            ]
            .concat()
        })
        .collect();
    let header = [
        "namespace",
        "service",
        "health",
        "instances",
        "routable",
        "unhealthy",
        "evicted",
        "draining",
        "strategy",
    ];
    out.table(&header, rows)?;
    tell_of_suspension(&client).await;
    if list.more {
        out.line(format!(
            "(there are more than {}; use --limit or --search to see the others)",
            args.limit
        ))
    } else {
        Ok(())
    }
}

async fn show(connect: &ConnectArgs, args: &ShowArgs, out: &mut Output) -> Result<(), CliError> {
    let client = connect.client()?;
    let path = args.service.path();
    let answer = client.send(&args.fresh.of(Request::get(&path))).await?;
    let instances = Request::get(&[&path[..], &["instances"]].concat())
        .query("zone", args.zone.as_ref())
        .query("tag", args.tag.as_ref())
        .query("min_index", answer.index());
    let list = client.list(&instances, args.limit as usize).await?;
    if out.is_json() {
        let mut document = answer.body;
        document["items"] = list.items.into();
        return out.json(&document);
    }
    let service: shapes::ServiceSummary = answer.read()?;
    out.line(format!(
        "{}/{}: {}, {} of {} {} traffic, {}{}",
        service.namespace,
        service.name,
        service.health.as_str(),
        service.routable,
        maxine_wording::count(service.instances, "instance"),
        if service.instances == 1 { "gets" } else { "get" },
        or_dash(service.strategy),
        if service.policy.as_ref().is_some_and(|policy| !policy.is_null()) {
            ", with a policy"
        } else {
            ""
        },
    ))?;
    let rows: Vec<_> = list.read::<shapes::Instance>()?.into_iter().map(instance_row).collect();
    let is_filtered = args.zone.is_some() || args.tag.is_some();
    if rows.is_empty() && is_filtered {
        out.line("no instance matches the --zone and --tag that are set")?;
    } else {
        let header = ["instance", "address", "weight", "state", "zone", "version", "tags", "why"];
        out.table(&header, rows)?;
        if is_filtered {
            out.line("(only the instances that match --zone and --tag)")?;
        }
    }
    tell_of_suspension(&client).await;
    for kept in service.kept_drains {
        out.line(format!(
            "a drain is kept for {id}, which is not registered: {}; 'maxine undrain -n {} {} {id}' ends it",
            drained_by(&kept.drain),
            service.namespace,
            service.name,
            id = kept.id,
        ))?;
    }
    if list.more {
        out.line(format!("(there are more than {}; use --limit to see the others)", args.limit))
    } else {
        Ok(())
    }
}

/// Tells the user if expiry is suspended, because silent instances are then still counted and listed. A user
/// who may not read the cluster's status is told nothing.
async fn tell_of_suspension(client: &Client) {
    let request = Request::get(&["cluster", "status"]).within(NOTE_MS_MAX);
    let answer = client.send(&request).await;
    let Ok(cluster) = answer.and_then(|answer| answer.read::<shapes::Cluster>()) else { return };
    if cluster.expiry.suspended == Some(true) {
        tell!(
            "note: expiry is suspended, because too many instances became silent at the same time. Silent instances stay registered. 'maxine alerts' shows the details"
        );
    }
}

fn instance_row(instance: shapes::Instance) -> Vec<String> {
    let evicted = instance.health.liveness == Liveness::Evicted;
    let bad = evicted || instance.health.readiness == Readiness::NotReady;
    let (state, why) = match (&instance.drain, instance.routable) {
        (Some(drain), _) => ("draining", drained_by(drain)),
        (None, true) if bad => {
            ("routable", format!("used in panic mode: {}", instance.health.reason))
        }
        (None, true) => ("routable", String::new()),
        (None, false) if evicted => ("evicted", instance.health.reason),
        (None, false) if bad => ("unhealthy", instance.health.reason),
        (None, false) => {
            ("no share", "the policy gives its version no share of the traffic".into())
        }
    };
    vec![
        instance.id,
        instance.address,
        instance.weight.to_string(),
        state.into(),
        or_dash(instance.zone),
        or_dash(instance.version),
        instance.tags.join(","),
        why,
    ]
}

/// Why an instance is drained, and by whom.
fn drained_by(drain: &shapes::Drain) -> String {
    match &*drain.reason {
        "" => format!("by {}", drain.by),
        reason => format!("{reason} (by {})", drain.by),
    }
}

async fn delete(
    connect: &ConnectArgs,
    args: &DeleteArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let what = format!(
        "remove the service {} with its policy, its drains and all its instances",
        args.service
    );
    super::confirm::confirm(&what, args.yes)?;
    let answer = connect
        .client()?
        .send(&Request::keyed(reqwest::Method::DELETE, &args.service.path()))
        .await?;
    let removed = maxine_wording::count(&answer.body["removed"], "instance");
    let text = format!("removed {} and {removed}", args.service);
    out.done(&answer.body, text)
}
