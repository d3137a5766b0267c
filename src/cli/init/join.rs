//! `maxine join`: writes the files of a further node for a running cluster.
//!
//! It runs where the key of the cluster's authority is, because no node has that key. It asks the cluster for its members,
//! and changes nothing there: `maxine cluster add` does that, once the node runs, and the audit log has it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use maxine_raft::pki::{NODE_DAYS, Validity};
use reqwest::Url;
use serde_json::json;

use super::files::{Plan, quoted_text};
use super::{failed, host, shown, write_nodes};
use crate::cli::client::{ConnectArgs, Request, shapes};
use crate::cli::download::check_target;
use crate::cli::exit::CliError;
use crate::cli::output::Output;
use maxine_clock::Clock;

/// Arguments of `maxine join`.
#[derive(Debug, clap::Args)]
pub struct JoinArgs {
    /// The cluster.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Host name or IP address of the new node's machine, at which clients and the other nodes reach it
    #[arg(value_parser = host)]
    host: String,
    /// The folder that 'maxine init' made, with the authority in tls/ca.pem and tls/ca-key.pem
    #[arg(long, value_name = "DIR", default_value = "maxine-cluster")]
    dir: PathBuf,
    /// The new node's number; it must never have been used in this cluster [default: the one after the greatest known]
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    node_id: Option<u64>,
    /// Port for clients (HTTPS) [default: that of the members]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    http_port: Option<u16>,
    /// Port for the other nodes [default: that of the members]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    raft_port: Option<u16>,
    /// Number of days for which the certificate is valid (1 to 3650)
    #[arg(long, value_name = "DAYS", default_value_t = NODE_DAYS, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
}

/// Runs `maxine join`.
///
/// # Errors
/// See [`CliError`]. Nothing is left of the new files then.
pub async fn run(args: &JoinArgs, out: &mut Output) -> Result<(), CliError> {
    let tls = args.dir.join("tls");
    for path in ["ca.pem", "ca-key.pem"].map(|name| tls.join(name)) {
        if !path.is_file() {
            let text = "there is no such file: --dir must name the folder that 'maxine init' made, with the authority";
            return Err(CliError::Usage(format!("{}: {text}", path.display())));
        }
    }
    let mut connect = args.connect.clone();
    if connect.ca_file()?.is_none() {
        connect.ca_file = Some(tls.join("ca.pem"));
    }
    let answer = connect.client()?.send(&Request::get(&["cluster", "status"])).await?;
    let cluster: shapes::Cluster = answer.read()?;
    let Some(raft) = cluster.raft else {
        let text = format!("in {} mode a cluster has no members to add", cluster.backend);
        return Err(CliError::Refused(text));
    };
    let validity = Validity { now_ms: Clock::system().wall_ms(), node_days: args.days };
    let (plan, id) = plan(args, &raft)?;
    write_all(&plan, id, validity)?;
    let sign_in = sign_in_commands(&raft, &plan.http_addr(&args.host));
    report(&plan, id, args, &sign_in, out)
}

/// The plan of the new node, and its number.
fn plan(args: &JoinArgs, raft: &shapes::Raft) -> Result<(Plan, u64), CliError> {
    if let Some(member) =
        raft.members.iter().find(|member| !has_characters_of_urls(&member.http_addr))
    {
        let text = format!(
            "the cluster says that node {} is at {:?}, which has characters that a URL does not have: correct \
             http.advertise of that node",
            member.id, member.http_addr
        );
        return Err(CliError::Refused(text));
    }
    let urls: Vec<(u64, Url)> = raft
        .members
        .iter()
        .filter_map(|member| Some((member.id, Url::parse(&member.http_addr).ok()?)))
        .collect();
    if urls.is_empty() || urls.iter().any(|(_, url)| url.scheme() != "https") {
        let text = "the members do not all have URLs of HTTPS, so 'maxine init' has not made this cluster: prepare the \
                    node as the other ones were, and add it with 'maxine cluster add'";
        return Err(CliError::Refused(text.into()));
    }
    let on_host =
        |url: &Url| url.host_str().is_some_and(|name| host(name).as_deref() == Ok(&*args.host));
    if let Some((id, _)) = urls.iter().find(|(_, url)| on_host(url)) {
        let text = format!("{} is the machine of node {id}: each node needs its own", args.host);
        return Err(CliError::Usage(text));
    }
    let mut used = issued(&args.dir.join("tls"))?;
    used.extend(raft.members.iter().map(|member| member.id));
    if let Some(folder) = prepared(&args.dir, &used, &args.host) {
        let text = format!(
            "{} has the files of a node on {} already, and that node is no member: start it and add it, or delete the \
             folder and run this again",
            folder.display(),
            args.host
        );
        return Err(CliError::Usage(text));
    }
    let http_ports = urls.iter().filter_map(|(_, url)| url.port_or_known_default());
    let raft_ports = raft.members.iter().filter_map(|member| port_of(&member.peer_addr));
    let http_port = the_port(args.http_port, http_ports, "--http-port")?;
    let raft_port = the_port(args.raft_port, raft_ports, "--raft-port")?;
    let id = args.node_id.unwrap_or_else(|| used.iter().max().map_or(1, |id| id + 1));
    if used.contains(&id) {
        let text = format!(
            "the number {id} is used already: each new node needs a number that was never used"
        );
        return Err(CliError::Usage(text));
    }
    let (dir, cluster_id) = (args.dir.clone(), raft.cluster_id.clone());
    let hosts = [(id, args.host.clone())].into();
    let plan = Plan { dir, cluster_id, hosts, is_new: false, http_port, raft_port };
    check_target(&plan.node_dir(id))?;
    Ok((plan, id))
}

/// Whether a text has only characters that RFC 3986 allows. The parser accepts others, and leaves some of them out.
fn has_characters_of_urls(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c))
}

fn port_of(peer_addr: &str) -> Option<u16> {
    peer_addr.rsplit_once(':')?.1.parse().ok()
}

/// The port that was given, or else the one that all members have.
fn the_port(
    given: Option<u16>,
    mut members: impl Iterator<Item = u16>,
    flag: &str,
) -> Result<u16, CliError> {
    if let Some(port) = given {
        return Ok(port);
    }
    match members.next() {
        Some(port) if members.all(|other| other == port) => Ok(port),
        _ => {
            Err(CliError::Usage(format!("{flag} is missing: the members do not all have one port")))
        }
    }
}

/// The numbers of the nodes for which a certificate was issued in this directory.
fn issued(tls: &Path) -> Result<Vec<u64>, CliError> {
    let entries = fs::read_dir(tls).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = entries.map_err(|error| failed(tls, &error))?;
    let number = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_str()?.strip_prefix("node-")?.strip_suffix(".pem")?;
        name.strip_suffix("-key").unwrap_or(name).parse::<u64>().ok()
    };
    Ok(entries.iter().filter_map(number).collect())
}

/// The folder in this directory, of one of these nodes, that has the files for this machine.
fn prepared(dir: &Path, ids: &[u64], machine: &str) -> Option<PathBuf> {
    ids.iter()
        .map(|id| dir.join(format!("node-{id}")))
        .find(|folder| host_of(&folder.join("maxine.toml")).is_some_and(|name| name == machine))
}

/// The machine of the node with this settings file.
fn host_of(settings: &Path) -> Option<String> {
    let settings = maxine_files::read_text(settings).ok()?.parse::<toml::Table>().ok()?;
    let address = settings.get("raft")?.get("advertise")?.as_str()?;
    host(address.rsplit_once(':')?.0).ok()
}

/// The commands that sign in again. A session is sent to no node that was not named when it was made.
fn sign_in_commands(raft: &shapes::Raft, http_addr: &str) -> [String; 2] {
    let members = raft.members.iter().map(|member| member.http_addr.trim_end_matches('/'));
    let servers: Vec<&str> = members.chain([http_addr]).collect();
    let servers = quoted_text(&servers.join(","));
    [format!("export MAXINE_SERVER={servers}"), "maxine login --user NAME".to_owned()]
}

/// Writes all files, or none.
fn write_all(plan: &Plan, id: u64, validity: Validity) -> Result<(), CliError> {
    let written = write_nodes(plan, validity);
    if written.is_err() {
        // None of these existed before. What cannot be removed makes the next attempt take the next number.
        let _ = fs::remove_dir_all(plan.node_dir(id));
        for name in [format!("node-{id}.pem"), format!("node-{id}-key.pem")] {
            let _ = fs::remove_file(plan.tls_dir().join(name));
        }
    }
    written
}

fn report(
    plan: &Plan,
    id: u64,
    args: &JoinArgs,
    sign_in: &[String],
    out: &mut Output,
) -> Result<(), CliError> {
    let (peer_addr, http_addr) = (plan.peer_addr(&args.host), plan.http_addr(&args.host));
    let dir = plan.node_dir(id);
    let add = format!(
        "maxine cluster add {id} --peer-addr {peer_addr} --http-addr {http_addr} --promote"
    );
    if out.is_json() {
        return out.json(&json!({
            "id": id, "cluster_id": plan.cluster_id, "host": args.host, "dir": shown(&dir), "peer_addr": peer_addr,
            "http_addr": http_addr, "start_commands": plan.start_commands(), "add_command": add,
            "removal_commands": plan.removal_commands(), "sign_in_commands": sign_in,
        }));
    }
    out.line(format!(
        "{dir} has the files of node {id} of the cluster {cluster}. Its certificate is valid for {days}.\n\
         If you have changed the settings of the other nodes since 'maxine init', change {toml} in the same way.\n\
         \n\
         1. Install Maxine's package on {host}.\n\
         2. Start the node. It waits until it is added:\n\
         \n{start}\n\
         \n\
         3. Add it, with a vote once it has caught up:\n\
         \n{add}\n\
         \n\
         4. The node has its files now, and these copies contain its key:\n\
         \n{removal}\n\
         \n\
         5. Sign in again, because a session is sent only to the nodes that were named when it was made:\n\
         \n{sign_in}",
        dir = dir.display(),
        cluster = plan.cluster_id,
        days = maxine_wording::count(args.days, "day"),
        toml = dir.join("maxine.toml").display(),
        host = args.host,
        start = plan.start_commands().join("\n"),
        removal = plan.removal_commands().join("\n"),
        sign_in = sign_in.join("\n"),
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: JoinArgs,
    }

    fn args(more: &[&str]) -> JoinArgs {
        Line::try_parse_from([&["join"][..], more].concat()).unwrap().args
    }

    fn members(list: &[(u64, &str, &str)]) -> shapes::Raft {
        let member = |(id, peer, http): &(u64, &str, &str)| json!({"id": id, "name": format!("node-{id}"), "peer_addr": peer, "http_addr": http});
        serde_json::from_value(json!({
            "cluster_id": "shop", "node_id": 1, "disk_stalled": false, "log_disk_bytes": 0, "majority": 2,
            "members": list.iter().map(member).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    #[test]
    fn the_ports_and_the_number_follow_the_members_and_the_certificates() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("tls")).unwrap();
        let dir = home.path().to_str().unwrap();
        let one = (1, "10.0.0.1:7701", "https://10.0.0.1:8443");
        let three = (3, "[2001:db8::3]:7701", "https://[2001:db8::3]:8443");
        let planned = |more: &[&str], list: &[(u64, &str, &str)]| {
            plan(&args(&[&["--dir", dir][..], more].concat()), &members(list))
        };
        let (found, id) = planned(&["10.0.0.4"], &[one, three]).unwrap();
        assert_eq!((id, found.http_port, found.raft_port), (4, 8_443, 7_701));
        // Node 6 was prepared, and perhaps removed again.
        fs::write(home.path().join("tls/node-6-key.pem"), "").unwrap();
        assert_eq!(planned(&["10.0.0.4"], &[one, three]).unwrap().1, 7);

        let why = |more: &[&str], list: &[(u64, &str, &str)]| match planned(more, list) {
            Ok((_, id)) => panic!("{more:?} is node {id}"),
            Err(error) => error.to_string(),
        };
        for id in ["3", "6"] {
            assert!(why(&["10.0.0.4", "--node-id", id], &[one, three]).contains("is used already"));
        }
        assert!(why(&["10.0.0.1"], &[one, three]).contains("the machine of node 1"));
        assert!(why(&["2001:db8::3"], &[one, three]).contains("the machine of node 3"));
        let plain = (2, "10.0.0.2:7701", "http://10.0.0.2:8443");
        assert!(why(&["10.0.0.4"], &[one, plain]).contains("URLs of HTTPS"));
        assert!(why(&["10.0.0.4"], &[]).contains("URLs of HTTPS"));
        let other = (2, "10.0.0.2:7702", "https://10.0.0.2:8443");
        assert!(why(&["10.0.0.4"], &[one, other]).contains("--raft-port is missing"));
        let given = planned(&["10.0.0.4", "--raft-port", "7703"], &[one, other]).unwrap().0;
        assert_eq!(given.raft_port, 7_703);
    }

    /// Regression: a second 'maxine join' of one machine made one more node for it.
    #[test]
    fn a_machine_whose_node_is_prepared_already_gets_no_second_one() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("tls")).unwrap();
        let dir = home.path().to_str().unwrap();
        let cluster = members(&[(1, "10.0.0.1:7701", "https://10.0.0.1:8443")]);
        for (id, machine) in [(2, "10.0.0.2"), (3, "2001:db8::3")] {
            let args = args(&["--dir", dir, machine]);
            let (made, made_id) = plan(&args, &cluster).unwrap();
            assert_eq!(made_id, id);
            fs::write(made.tls_dir().join(format!("node-{id}.pem")), "").unwrap();
            fs::create_dir(made.node_dir(id)).unwrap();
            fs::write(made.node_dir(id).join("maxine.toml"), made.settings(id, machine)).unwrap();
            let Err(error) = plan(&args, &cluster) else { panic!("{machine} got a second node") };
            assert!(error.to_string().contains(&format!("node-{id} has the files")), "{error}");
        }
        fs::remove_dir_all(home.path().join("node-2")).unwrap();
        assert_eq!(plan(&args(&["--dir", dir, "10.0.0.2"]), &cluster).unwrap().1, 4);
    }

    /// Regression: after a node was added, it refused the session of the administrator, which was not sent to it.
    #[test]
    fn the_last_step_signs_in_with_the_new_node_too() {
        let one = (1, "10.0.0.1:7701", "https://10.0.0.1:8443/");
        let two = (2, "10.0.0.2:7701", "https://10.0.0.2:8443");
        let commands = sign_in_commands(&members(&[one, two]), "https://10.0.0.3:8443");
        let servers = "https://10.0.0.1:8443,https://10.0.0.2:8443,https://10.0.0.3:8443";
        assert_eq!(commands[0], format!("export MAXINE_SERVER={servers}"));
        assert_eq!(commands[1], "maxine login --user NAME");
    }

    /// Regression: a URL of a member went into a command of the shell as it was.
    #[test]
    fn a_url_of_a_member_begins_no_command_of_the_shell() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("tls")).unwrap();
        let args = args(&["--dir", home.path().to_str().unwrap(), "10.0.0.4"]);
        let with = |url: &str| members(&[(1, "10.0.0.1:7701", url)]);
        for url in [
            "https://10.0.0.1:8443/`id`",
            "https://10.0.0.1:8443/\n id",
            "https://10.0.0.1:8443/\"x",
        ] {
            let Err(error) = plan(&args, &with(url)) else { panic!("{url:?} is accepted") };
            let text = error.to_string();
            assert!(text.contains("node 1") && !text.contains('\n'), "{text}");
        }
        let commands = sign_in_commands(&with("https://10.0.0.1:8443/$(id);'x"), "https://b:1");
        let quoted = r"'https://10.0.0.1:8443/$(id);'\''x,https://b:1'";
        assert_eq!(commands[0], format!("export MAXINE_SERVER={quoted}"));
    }

    /// A new authority would make a node that no other node trusts.
    #[tokio::test]
    async fn without_the_key_of_the_authority_nothing_is_made() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("tls")).unwrap();
        fs::write(home.path().join("tls/ca.pem"), "").unwrap();
        let args = args(&["--dir", home.path().to_str().unwrap(), "10.0.0.4"]);
        let mut out = Output::new(crate::cli::output::Format::Table, Box::new(io::sink()));
        let error = run(&args, &mut out).await.unwrap_err();
        assert!(
            matches!(error, CliError::Usage(_)) && error.to_string().contains("ca-key.pem"),
            "{error}"
        );
        assert_eq!(fs::read_dir(home.path().join("tls")).unwrap().count(), 1);
    }
}
