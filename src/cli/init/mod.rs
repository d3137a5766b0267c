//! `maxine init`: writes the files of a new cluster, one folder for each node. It works without a running node, and
//! never changes a file that exists. [`join`] does the same for a further node of a running cluster.

mod files;
pub mod join;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use maxine_raft::pki::{NODE_DAYS, NodeNames, NodePki, Validity, issue_named};
use serde_json::{Value, json};

use super::commands::finish;
use super::confirm::ask;
use super::download::check_target;
use super::exit::CliError;
use super::output::{Output, OutputArgs};
use files::Plan;
use maxine_clock::Clock;

/// Maximum number of nodes of a new cluster.
const NODES_MAX: usize = 9;
const DEFAULT_CLUSTER_ID: &str = "maxine";
/// The file with the commands that the program also prints.
const INSTRUCTIONS: &str = "START.txt";

/// Arguments of `maxine init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Folder to make. It must not exist
    #[arg(default_value = "maxine-cluster")]
    dir: PathBuf,
    /// Host names or IP addresses of the nodes' machines, at which clients and the other nodes reach them: 3 or 5, at
    /// most 9. The first one becomes node 1. In a terminal it is asked for if it is left out
    #[arg(long, value_name = "HOST,HOST,...", value_delimiter = ',', value_parser = host)]
    nodes: Vec<String>,
    /// The cluster's name: lower-case letters, digits and hyphens [default: maxine; in a terminal it is asked for]
    #[arg(long, value_name = "NAME")]
    cluster_id: Option<String>,
    /// Port of each node for clients (HTTPS)
    #[arg(long, value_name = "PORT", default_value_t = 8_080, value_parser = clap::value_parser!(u16).range(1..))]
    http_port: u16,
    /// Port of each node for the other nodes
    #[arg(long, value_name = "PORT", default_value_t = 7_700, value_parser = clap::value_parser!(u16).range(1..))]
    raft_port: u16,
    /// Number of days for which the nodes' certificates are valid (1 to 3650); the new authority is valid for 3650
    #[arg(long, value_name = "DAYS", default_value_t = NODE_DAYS, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `maxine init`, writes an error to `errors`, and returns the exit code.
pub fn run(args: InitArgs, errors: &mut dyn Write) -> u8 {
    let format = args.output.format;
    finish(init(args, &mut Output::stdout(format)), format, errors)
}

fn init(args: InitArgs, out: &mut Output) -> Result<(), CliError> {
    let validity = Validity { now_ms: Clock::system().wall_ms(), node_days: args.days };
    check_target(&args.dir)?;
    let plan = plan(args)?;
    let text = plan.instructions(validity.node_days);
    // Only this call may make the folder, so everything in it can be removed after an error.
    DirBuilder::new().mode(0o700).create(&plan.dir).map_err(|error| failed(&plan.dir, &error))?;
    if let Err(error) = write_all(&plan, validity, &text) {
        return Err(match fs::remove_dir_all(&plan.dir) {
            Ok(()) => error,
            Err(left) => failed(&plan.dir, &left),
        });
    }
    if out.is_json() {
        let node = |(id, host): (u64, &str)| {
            json!({"id": id, "host": host, "dir": shown(&plan.node_dir(id)), "peer_addr": plan.peer_addr(host),
                "http_addr": plan.http_addr(host)})
        };
        let nodes: Vec<Value> = plan.nodes().map(node).collect();
        return out.json(&json!({
            "dir": shown(&plan.dir), "cluster_id": plan.cluster_id, "tls_dir": shown(&plan.tls_dir()), "nodes": nodes,
            "start_commands": plan.start_commands(), "later_commands": plan.later_commands(),
        }));
    }
    out.line(text.trim_end())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("{}: {}", path.display(), maxine_wording::io(error)))
}

/// The plan of the cluster. What the flags leave out is asked for, if a person can answer.
fn plan(args: InitArgs) -> Result<Plan, CliError> {
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    let mut hosts = args.nodes;
    if hosts.is_empty() {
        if !can_ask {
            return Err(CliError::Usage(
                "--nodes is missing: the host names or IP addresses of the nodes, such as --nodes 10.0.0.1,10.0.0.2,10.0.0.3"
                    .into(),
            ));
        }
        let answer = ask("Host names or IP addresses of the nodes, separated by commas: ")?;
        let each = |text: &str| host(text).map_err(CliError::Usage);
        hosts = answer.split(',').map(each).collect::<Result<_, _>>()?;
    }
    check_hosts(&hosts).map_err(CliError::Usage)?;
    if args.http_port == args.raft_port {
        return Err(CliError::Usage("--http-port and --raft-port must differ".into()));
    }
    let cluster_id = match args.cluster_id {
        Some(name) => name,
        None if can_ask => {
            let answer = ask(&format!("Name of the cluster [{DEFAULT_CLUSTER_ID}]: "))?;
            if answer.is_empty() { DEFAULT_CLUSTER_ID.to_owned() } else { answer }
        }
        None => DEFAULT_CLUSTER_ID.to_owned(),
    };
    let (http_port, raft_port) = (args.http_port, args.raft_port);
    let hosts = (1..).zip(hosts).collect();
    Ok(Plan { dir: args.dir, cluster_id, hosts, is_new: true, http_port, raft_port })
}

/// Parses a host name or an IP address.
fn host(text: &str) -> Result<String, String> {
    let text = text.trim();
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Ok(address) = in_brackets.unwrap_or(text).parse::<IpAddr>() {
        return match address.is_unspecified() || address.is_multicast() {
            true => Err(format!("{text} is not the address of a machine")),
            false => Ok(address.to_string()),
        };
    }
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last part is a number would be an IP address with a mistake.
    let is_number = text.rsplit('.').next().is_some_and(|part| part.parse::<u64>().is_ok());
    if text.len() <= 253 && text.split('.').all(is_label) && !is_number {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("expected a host name or an IP address without a port, got {text:?}"))
}

fn check_hosts(hosts: &[String]) -> Result<(), String> {
    if hosts.len() > NODES_MAX {
        return Err(format!(
            "--nodes names {} nodes, and at most {NODES_MAX} are possible",
            hosts.len()
        ));
    }
    let twice = hosts.iter().enumerate().find(|(at, host)| hosts[..*at].contains(host));
    match twice {
        Some((_, host)) => {
            Err(format!("--nodes names {host} twice: each node needs its own machine"))
        }
        None => Ok(()),
    }
}

fn write_all(plan: &Plan, validity: Validity, text: &str) -> Result<(), CliError> {
    make_dir(&plan.tls_dir())?;
    write_nodes(plan, validity)?;
    write(&plan.dir.join(INSTRUCTIONS), 0o600, text.as_bytes())
}

/// Issues the certificates of the planned nodes, and writes their folders.
fn write_nodes(plan: &Plan, validity: Validity) -> Result<(), CliError> {
    let named = |(node_id, host): (u64, &str)| NodeNames { node_id, hosts: vec![host.to_owned()] };
    let names: Vec<NodeNames> = plan.nodes().map(named).collect();
    let pki =
        issue_named(&plan.tls_dir(), &plan.cluster_id, &names, validity).map_err(|error| {
            let why = error.to_string();
            if error.kind() == ErrorKind::InvalidInput {
                CliError::Usage(why)
            } else {
                CliError::Failed(why)
            }
        })?;
    for ((id, host), node) in plan.nodes().zip(&pki.nodes) {
        let dir = plan.node_dir(id);
        make_dir(&dir)?;
        write(&dir.join("maxine.toml"), 0o600, plan.settings(id, host).as_bytes())?;
        write(&dir.join("install.sh"), 0o700, plan.script(id).as_bytes())?;
        let NodePki { cert_pem, key_pem, .. } = node;
        let of_node = dir.join("tls");
        make_dir(&of_node)?;
        for file in [&pki.ca_pem, cert_pem, key_pem] {
            let bytes = fs::read(file).map_err(|error| failed(file, &error))?;
            write(&of_node.join(file.file_name().unwrap_or_default()), 0o600, &bytes)?;
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), CliError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|error| failed(path, &error))
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), CliError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = opened.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| failed(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_without_a_port() {
        for (text, want) in [
            ("10.0.0.1", "10.0.0.1"),
            (" Maxine-1.Example.com ", "maxine-1.example.com"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:DB8:0::1", "2001:db8::1"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(want));
        }
        for bad in [
            "",
            "10.0.0",
            "10.0.0.256",
            "a:8080",
            "10.0.0.1:1",
            "a_b",
            "-a",
            "a..b",
            "0.0.0.0",
            "a\"b",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
        let hosts = |list: &[&str]| list.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        assert!(check_hosts(&hosts(&["a", "b", "c"])).is_ok());
        assert!(check_hosts(&hosts(&["a", "b", "a"])).unwrap_err().contains("names a twice"));
        assert!(check_hosts(&hosts(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"])).is_err());
    }

    /// A second attempt must find nothing of the first one.
    #[test]
    fn after_an_error_nothing_is_left() {
        let home = tempfile::tempdir().unwrap();
        let args = |cluster_id: &str| InitArgs {
            dir: home.path().join("shop"),
            nodes: vec!["10.0.0.1".into()],
            cluster_id: Some(cluster_id.into()),
            http_port: 8_080,
            raft_port: 7_700,
            days: 365,
            output: OutputArgs::default(),
        };
        let mut out = Output::new(crate::cli::output::Format::Table, Box::new(io::sink()));
        let error = init(args("No Name"), &mut out).unwrap_err();
        assert!(matches!(error, CliError::Usage(_)), "{error}");
        assert!(!home.path().join("shop").exists());
        init(args("shop"), &mut out).unwrap();
        let error = init(args("shop"), &mut out).unwrap_err();
        assert!(
            matches!(error, CliError::Usage(_)) && error.to_string().contains("exists already"),
            "{error}"
        );
    }
}
