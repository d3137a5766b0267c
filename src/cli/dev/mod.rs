//! `maxine dev`: a whole cluster on this machine, as child processes.

mod children;
mod layout;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use super::output::{Format, OutputArgs};
use crate::config::BackendKind;
use children::{Child, Children};
use layout::{DevNode, Folder};

/// Arguments of `maxine dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Number of nodes, 1 to 9 [default: 3, or 1 with --backend local]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: Option<u64>,
    /// Where the nodes keep their state
    #[arg(long, value_enum, default_value_t = BackendKind::Raft)]
    backend: BackendKind,
    /// HTTP port of the first node; the other nodes use the next ports [default: 8080, or the ports of the
    /// last run in the same directory]
    #[arg(long, short)]
    port: Option<u16>,
    /// Directory that keeps the nodes' data between runs
    #[arg(long, default_value = "maxine-dev")]
    data_dir: PathBuf,
    /// Delete the data of earlier runs in this directory first
    #[arg(long)]
    fresh: bool,
    /// Do not start the sample services
    #[arg(long)]
    no_samples: bool,
    /// Protect the connections between the nodes with mutual TLS; the certificates are made at the start
    #[arg(long)]
    tls: bool,
    /// Restart processes that were killed. If another 'maxine dev' runs on the same directory, ask that one
    /// to restart its stopped processes once, and exit
    #[arg(long)]
    restart: bool,
    // In JSON: one line per node, and another line when a node is restarted.
    #[command(flatten)]
    output: OutputArgs,
}

impl ValueEnum for BackendKind {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Raft, Self::Redis, Self::SharedFile, Self::Local]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

/// Time limit until the cluster accepts writes.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How many times the cluster is started, each time with other ports, while other processes take the ports
/// that it chose.
const START_TRIES: u32 = 3;

/// A client for loopback servers.
pub(super) fn http_client() -> reqwest::Client {
    maxine_identity::crypto_provider::install_crypto_provider();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(3))
        .no_proxy()
        .build()
        .unwrap_or_default()
}

/// Runs the cluster until Ctrl-C.
pub async fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    let count = match (args.nodes, args.backend) {
        (None | Some(1), BackendKind::Local) => 1,
        (Some(_), BackendKind::Local) => {
            bail!("local mode has one node: use --nodes 1, or another --backend")
        }
        (nodes, _) => nodes.unwrap_or(3),
    };
    if args.restart && !args.data_dir.exists() {
        bail!(
            "{}: the directory does not exist, so there is nothing to restart",
            args.data_dir.display()
        );
    }
    let folder = match Folder::open(&args.data_dir, args.fresh)? {
        Ok(folder) => folder,
        Err(pid) if args.restart => {
            layout::ask_to_restart(pid)?;
            tell!(
                "asked the 'maxine dev' that runs on {} (process {pid}) to restart its stopped processes",
                args.data_dir.display()
            );
            return Ok(ExitCode::SUCCESS);
        }
        Err(pid) => bail!(
            "another 'maxine dev' runs on {} (process {pid}): stop it, or use another --data-dir",
            args.data_dir.display()
        ),
    };
    // Ctrl-C must stop the children, even while they are starting.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut tries = 0;
    let (nodes, mut children) = loop {
        tries += 1;
        let nodes = folder.nodes(count, args.backend, args.port)?;
        let mut children = start_nodes(&args, &folder, &nodes).await?;
        let (error, stopped) = tokio::select! {
            result = ready(&nodes, &mut children) => match result {
                Ok(()) => break (nodes, children),
                Err(error) => (error, false),
            },
            _ = interrupt.recv() => (stopped_early(), true),
            _ = terminate.recv() => (stopped_early(), true),
        };
        children.stop_all().await;
        match folder.lost_port(&nodes, args.port) {
            Some(port) if tries < START_TRIES && !stopped => {
                tell!("another process took port {port}; starting with other ports");
                folder.undo_first_start()?;
            }
            _ => return Err(error),
        }
    };
    if !args.no_samples {
        for (service, instance) in
            [("orders", "orders-1"), ("orders", "orders-2"), ("payments", "payments-1")]
        {
            let command = folder.sample_command(&nodes, service, instance)?;
            children.add(Child::sample(instance, command, folder.log_file(instance))).await?;
        }
    }
    announce(&args, &folder, &nodes, &children).await?;
    let mut restart = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = restart.recv() => restart_dead_children(&args, &folder, &nodes, &mut children).await,
            ended = children.next_ended() => {
                tell!("{ended}");
                if args.restart {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    restart_dead_children(&args, &folder, &nodes, &mut children).await;
                } else {
                    tell!("it stays stopped; to restart it, run 'maxine dev --restart --data-dir {}' in another terminal", args.data_dir.display());
                }
            }
        }
    }
    tell!("stopping {} processes", children.running());
    children.stop_all().await;
    Ok(ExitCode::SUCCESS)
}

fn stopped_early() -> anyhow::Error {
    anyhow::anyhow!("stopped before the cluster was ready")
}

/// Starts the processes of the nodes, and Redis before them if the nodes need it.
async fn start_nodes(
    args: &DevArgs,
    folder: &Folder,
    nodes: &[DevNode],
) -> anyhow::Result<Children> {
    let redis = match args.backend {
        BackendKind::Redis => Some(children::redis(folder).await?),
        _ => None,
    };
    let redis_url = redis.as_ref().map(|(url, _)| url.clone());
    let mut children = Children::default();
    if let Some((_, child)) = redis {
        children.add(child).await?;
    }
    let tls = (args.tls && args.backend == BackendKind::Raft)
        .then(|| folder.issue_certificates(nodes))
        .transpose()?;
    for node in nodes {
        let command =
            folder.node_command(node, nodes, args.backend, redis_url.as_deref(), tls.as_ref())?;
        children
            .add(Child::node(node.id, command, folder.log_file(&format!("node-{}", node.id))))
            .await?;
    }
    Ok(children)
}

/// Returns when every node answers and a leader accepts writes.
async fn ready(nodes: &[DevNode], children: &mut Children) -> anyhow::Result<()> {
    let client = http_client();
    let wait = async {
        for node in nodes {
            let url = format!("{}/api/v1/ready", node.http_url());
            loop {
                let answer = client.get(&url).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::select! {
        () = wait => Ok(()),
        ended = children.next_ended() => bail!("{ended}\n{}", children.log_tail()),
        () = tokio::time::sleep(READY_TIMEOUT) => {
            bail!("the cluster was not ready in {} s\n{}", READY_TIMEOUT.as_secs(), children.log_tail())
        }
    }
}

/// Starts the processes that are down, and writes the nodes' new process ids for scripts.
async fn restart_dead_children(
    args: &DevArgs,
    folder: &Folder,
    nodes: &[DevNode],
    children: &mut Children,
) {
    let back = children.restart_dead().await;
    if args.output.format == Format::Json {
        let back = nodes.iter().filter(|node| back.contains(&node.id));
        // The reader of the first lines may have closed the pipe. The cluster continues to run.
        let _unread = print_lines(folder, back, children);
    }
}

/// One line of JSON for each node.
fn print_lines<'a>(
    folder: &Folder,
    nodes: impl IntoIterator<Item = &'a DevNode>,
    children: &Children,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for node in nodes {
        let line = serde_json::json!({
            "id": node.id, "instance": format!("node-{}", node.id),
            "pid": children.pid_of_node(node.id), "http": node.http_url(),
            "peer": node.peer_addr(), "data_dir": folder.node_dir(node.id),
        });
        writeln!(out, "{line}")?;
    }
    out.flush()
}

async fn announce(
    args: &DevArgs,
    folder: &Folder,
    nodes: &[DevNode],
    children: &Children,
) -> anyhow::Result<()> {
    let password = folder.take_password().await;
    if args.output.format == Format::Json {
        print_lines(folder, nodes, children).context("standard output is closed")?;
        if let Some(password) = password {
            tell!("admin password, shown this once: {password}");
        }
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["node", "dashboard and API", "peers", "process", "data"]);
    for node in nodes {
        let pid = children.pid_of_node(node.id).map_or_else(|| "-".into(), |pid| pid.to_string());
        let data = folder.node_dir(node.id).display().to_string();
        table.add_row([format!("node-{}", node.id), node.http_url(), node.peer_addr(), pid, data]);
    }
    let mut out = std::io::stdout();
    let running = maxine_wording::count(nodes.len(), "node");
    writeln!(out, "Maxine is running: {running} in {} mode\n\n{table}\n", args.backend.as_str())?;
    let first = nodes.first().map(DevNode::http_url).unwrap_or_default();
    match password {
        Some(password) => {
            writeln!(out, "sign in as admin, password (shown this once): {password}\n")?
        }
        None if std::env::var_os("MAXINE_ADMIN_PASSWORD").is_some() => {
            writeln!(
                out,
                "sign in as the administrator that MAXINE_ADMIN_USERNAME names
"
            )?;
        }
        None if folder.is_new => writeln!(
            out,
            "sign in as admin; the first password is written to {} by the node that leads first
",
            folder.path("node-*").join("initial-password").display()
        )?,
        None => writeln!(
            out,
            "sign in as admin, with the password shown at the first start ('--fresh' begins anew)\n"
        )?,
    }
    if !args.no_samples {
        writeln!(out, "try   curl -L '{first}/api/maxine/serviceops/discover?serviceName=orders'")?;
    }
    writeln!(out, "stop  Ctrl-C")?;
    out.flush().context("standard output is closed")
}
