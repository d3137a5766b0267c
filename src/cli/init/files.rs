//! The content of the folders of nodes: settings, the script that puts them in place, and the commands that start the
//! nodes.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// Where the packaged unit expects the settings and the certificates of a node.
const CONFIG_DIR: &str = "/etc/maxine";
/// The data directory of the packaged unit.
const DATA_DIR: &str = "/var/lib/maxine";

/// Nodes that are planned.
pub(super) struct Plan {
    /// The folder that has the folders of the nodes, and the certificates.
    pub(super) dir: PathBuf,
    /// The cluster's name.
    pub(super) cluster_id: String,
    /// The machines, by the nodes' numbers.
    pub(super) hosts: BTreeMap<u64, String>,
    /// Whether these nodes form a new cluster. If not, they are added to one that runs.
    pub(super) is_new: bool,
    /// Port for clients.
    pub(super) http_port: u16,
    /// Port for the other nodes.
    pub(super) raft_port: u16,
}

impl Plan {
    /// The nodes' numbers and machines.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (u64, &str)> {
        self.hosts.iter().map(|(id, host)| (*id, host.as_str()))
    }

    /// The directory of the authority and of all certificates.
    pub(super) fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// The folder of a node.
    pub(super) fn node_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    /// The URL at which clients reach a node.
    pub(super) fn http_addr(&self, host: &str) -> String {
        format!("https://{}:{}", bracketed(host), self.http_port)
    }

    /// The address at which the other nodes reach a node.
    pub(super) fn peer_addr(&self, host: &str) -> String {
        format!("{}:{}", bracketed(host), self.raft_port)
    }

    /// The settings of a node.
    pub(super) fn settings(&self, id: u64, host: &str) -> String {
        let every = if host.parse::<Ipv6Addr>().is_ok() { "[::]" } else { "0.0.0.0" };
        format!(
            r#"# Settings of node {id} of the cluster {cluster}. The place of this file is {CONFIG_DIR}/maxine.toml on {host}.
# 'maxine config example' prints every other setting with its unit, range and default.

[node]
# The node's number. Never reuse the number of a removed node.
id = {id}
data_dir = "{DATA_DIR}"

[state]
mode = "raft"

[http]
# The address and the port for clients. The address {every_ip} means every interface of this machine.
host = "{every_ip}"
port = {http_port}
advertise = "{http_addr}"
# The port takes HTTPS only. The certificate is the one that the other nodes check too.
tls_cert = ["{CONFIG_DIR}/tls/node-{id}.pem"]
tls_key = ["{CONFIG_DIR}/tls/node-{id}-key.pem"]

[raft]
cluster_id = "{cluster}"
# The address and the port for the other nodes.
listen = "{every}:{raft_port}"
advertise = "{peer_addr}"
{members}tls_ca = "{CONFIG_DIR}/tls/ca.pem"
tls_cert = "{CONFIG_DIR}/tls/node-{id}.pem"
tls_key = "{CONFIG_DIR}/tls/node-{id}-key.pem"

[security]
# Registration and discovery need a token ('maxine token create').
registration_access = "token"
discovery_access = "token"
# One node makes the account of the administrator at the first start of the cluster, and writes its password here.
initial_password_file = "{DATA_DIR}/initial-password"

[backup]
# The leader makes a backup every day at this time in UTC, and verifies it by a restore. Copy the backups to another machine.
schedule = "daily 01:00"
directory = "{DATA_DIR}/backups"
keep = 14
"#,
            cluster = self.cluster_id,
            every_ip = every.trim_matches(['[', ']']),
            http_port = self.http_port,
            http_addr = self.http_addr(host),
            raft_port = self.raft_port,
            peer_addr = self.peer_addr(host),
            members = self.members(),
        )
    }

    /// The line of the settings file that names the members of a new cluster. For a node that joins, a comment.
    fn members(&self) -> String {
        if !self.is_new {
            return "# The node waits until 'maxine cluster add' adds it, and learns the other members then.\n".into();
        }
        let each = |(id, host): (u64, &str)| {
            format!("  \"{id}@{}@{}\",\n", self.peer_addr(host), self.http_addr(host))
        };
        let lines: String = self.nodes().map(each).collect();
        format!("# The same list on each of these nodes.\nmembers = [\n{lines}]\n")
    }

    /// The script that a node's machine runs.
    pub(super) fn script(&self, id: u64) -> String {
        include_str!("install.sh")
            .replace("@NODE@", &id.to_string())
            .replace("@CLUSTER@", &self.cluster_id)
    }

    /// The commands that start the nodes, in order.
    pub(super) fn start_commands(&self) -> Vec<String> {
        let each = |(id, host): (u64, &str)| {
            let dir = self.node_dir(id);
            let target = bracketed(host);
            [
                format!("scp -r {} {target}:", quoted(&dir)),
                format!("ssh -t {host} sudo sh node-{id}/install.sh"),
            ]
        };
        self.nodes().flat_map(each).collect()
    }

    /// The commands for the time after the start, with comments.
    pub(super) fn later_commands(&self) -> Vec<String> {
        let servers: Vec<String> = self.nodes().map(|(_, host)| self.http_addr(host)).collect();
        let ca = self.tls_dir().join("ca.pem");
        let ca = std::path::absolute(&ca).unwrap_or(ca);
        let mut commands = vec![
            format!("export MAXINE_SERVER={}", quoted_text(&servers.join(","))),
            format!("export MAXINE_CA_FILE={}", quoted(&ca)),
            "maxine health --ready".to_owned(),
            "# One of the nodes has the password of the administrator; on the others the file does not exist:"
                .to_owned(),
        ];
        let show =
            |(_, host): (u64, &str)| format!("ssh -t {host} sudo cat {DATA_DIR}/initial-password");
        commands.extend(self.nodes().map(show));
        commands.extend([
            "maxine login --user admin".to_owned(),
            "maxine passwd".to_owned(),
            "maxine doctor".to_owned(),
            "# The nodes have their files now, and these copies contain their keys:".to_owned(),
        ]);
        commands.extend(self.removal_commands());
        commands
    }

    /// The commands that delete the copies of the nodes' files, on the nodes' machines and here.
    pub(super) fn removal_commands(&self) -> Vec<String> {
        let folders: Vec<String> = self.nodes().map(|(id, _)| quoted(&self.node_dir(id))).collect();
        let there = self.nodes().map(|(id, host)| format!("ssh {host} rm -r node-{id}"));
        there.chain([format!("rm -r {}", folders.join(" "))]).collect()
    }

    /// All that the user has to know, with all commands. `days` is the validity of the nodes' certificates.
    pub(super) fn instructions(&self, days: u32) -> String {
        let (dir, tls) = (self.dir.display(), self.tls_dir());
        let tls = quoted(&tls);
        let count = self.hosts.len();
        let losses = match (count - 1) / 2 {
            0 => "None of the nodes may fail".to_owned(),
            losses => format!("{losses} of the nodes may fail"),
        };
        let (first, then) = (self.start_commands().join("\n"), self.later_commands().join("\n"));
        format!(
            "{dir} has the files of the cluster {cluster} with {nodes}. {losses}.\n\
             \n\
             - {tls}: the certificate authority and every certificate. Keep it on a machine that is no node: with ca-key.pem \
             anyone can join the cluster.\n  \
             The nodes' certificates are valid for {days}. 'maxine tls renew {tls} --cluster-id {cluster}' makes new ones.\n\
             - {dir}/node-N: the settings and certificates of node N, and the script that puts them in place.\n\
             \n\
             The nodes reach each other at port {raft_port}, and clients reach the nodes at port {http_port}.\n\
             \n\
             1. Install Maxine's package on each machine.\n\
             2. Start the nodes, in this order:\n\
             \n{first}\n\
             \n\
             3. Sign in from this machine:\n\
             \n{then}\n",
            cluster = self.cluster_id,
            nodes = maxine_wording::count(count, "node"),
            days = maxine_wording::count(days, "day"),
            raft_port = self.raft_port,
            http_port = self.http_port,
        )
    }
}

/// A host as it is written before a port.
fn bracketed(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

/// A path as one word of a command of the shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    // It is no option.
    if text.starts_with('-') { format!("'./{}'", escaped(&text)) } else { quoted_text(&text) }
}

/// A text as one word of a command of the shell.
pub(super) fn quoted_text(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('\'', r"'\''")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendKind, NodeConfig};

    fn plan(hosts: &[&str]) -> Plan {
        let hosts = (1..).zip(hosts.iter().map(|host| (*host).to_owned())).collect();
        Plan {
            dir: "my cluster".into(),
            cluster_id: "shop".into(),
            hosts,
            is_new: true,
            http_port: 8443,
            raft_port: 7701,
        }
    }

    #[test]
    fn the_settings_of_every_kind_of_host_are_accepted() {
        let plan = plan(&["10.0.0.1", "2001:db8::2", "maxine-3.example.com"]);
        let dir = tempfile::tempdir().unwrap();
        for (id, host) in plan.nodes() {
            let path = dir.path().join(format!("{id}.toml"));
            std::fs::write(&path, plan.settings(id, host)).unwrap();
            let config = NodeConfig::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).unwrap();
            assert_eq!((config.node_id, config.backend), (id, BackendKind::Raft));
            assert_eq!(config.raft.members.len(), 3);
            let own = config.raft.members.iter().find(|member| member.id == id).unwrap();
            assert_eq!(own.http_addr, config.http.advertise);
            assert_eq!(own.peer_addr, config.raft.advertise);
            assert_eq!((config.http.port, config.raft.listen.port()), (8443, 7701));
            assert_eq!(config.http.tls_cert, [config.raft.tls_cert]);
            assert_eq!(config.http.host.is_ipv6(), host.contains(':'));
        }
    }

    #[test]
    fn a_node_that_is_added_later_names_no_members() {
        let plan = Plan { is_new: false, ..plan(&["10.0.0.1"]) };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maxine.toml");
        std::fs::write(&path, plan.settings(1, "10.0.0.1")).unwrap();
        let config = NodeConfig::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert!(config.raft.members.is_empty());
    }

    #[test]
    fn the_commands_start_each_node_once_and_quote_the_folder() {
        let plan = plan(&["10.0.0.1", "2001:db8::2"]);
        let commands = plan.start_commands();
        assert_eq!(commands.len(), 4);
        assert_eq!(commands[0], "scp -r 'my cluster/node-1' 10.0.0.1:");
        assert_eq!(commands[2], "scp -r 'my cluster/node-2' [2001:db8::2]:");
        assert_eq!(commands[3], "ssh -t 2001:db8::2 sudo sh node-2/install.sh");
        let text = plan.instructions(365);
        assert!(text.contains("None of the nodes may fail"), "{text}");
        assert!(commands.iter().all(|command| text.contains(command)), "{text}");
        assert_eq!(quoted(Path::new("a'b")), r"'a'\''b'");
        assert_eq!(quoted(Path::new("-r")), "'./-r'");
        assert_eq!(quoted(Path::new("-a'b")), r"'./-a'\''b'");
        assert_eq!(quoted_text("a,b:1"), "a,b:1");
        assert_eq!(quoted_text("$(id)"), "'$(id)'");
        assert_eq!(quoted_text(""), "''");
    }

    /// Regression: the copies of the keys stayed on the machines of the nodes.
    #[test]
    fn the_last_commands_delete_every_copy_of_a_key() {
        let plan = plan(&["10.0.0.1", "2001:db8::2"]);
        let commands = plan.removal_commands();
        assert_eq!(
            commands,
            [
                "ssh 10.0.0.1 rm -r node-1",
                "ssh 2001:db8::2 rm -r node-2",
                "rm -r 'my cluster/node-1' 'my cluster/node-2'",
            ]
        );
        let text = plan.instructions(365);
        assert!(commands.iter().all(|command| text.contains(command)), "{text}");
        let script = plan.script(2);
        assert!(script.trim_end().ends_with("rm -r $(pwd)\""), "{script}");
    }

    #[test]
    fn the_script_names_the_files_of_its_node() {
        let script = plan(&["a", "b"]).script(2);
        assert!(script.contains("tls/node-2-key.pem") && !script.contains('@'), "{script}");
        assert!(script.contains("node 2 of the cluster shop"), "{script}");
    }
}
