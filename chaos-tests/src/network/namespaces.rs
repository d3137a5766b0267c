//! A network namespace for each node, connected by a bridge in another one. Packets are really dropped.
//!
//! `ip` and `nft` create everything as root, with names that contain the process id. It is removed when this
//! value is dropped.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, bail};

/// The namespaces of a cluster.
#[derive(Debug)]
pub struct Namespaces {
    tag: String,
    third: u8,
    nodes: u64,
}

/// The name of a namespace that is made to find out what this machine allows. Nobody else uses it.
fn probe_name() -> String {
    static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let nth = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("mxp{}-{nth}", std::process::id())
}

impl Namespaces {
    /// Whether this process may create them.
    pub fn are_available() -> bool {
        let probe = probe_name();
        let made = run("ip", &["netns", "add", &probe]).is_ok();
        let rules = made
            && run("ip", &["netns", "exec", &probe, "nft", "add", "table", "inet", "probe"])
                .is_ok();
        if made {
            let _gone = run("ip", &["netns", "delete", &probe]);
        }
        rules
    }

    /// Creates a namespace for each node.
    pub fn make(nodes: u64) -> anyhow::Result<Self> {
        if nodes == 0 || nodes > 16 {
            bail!("1 to 16 nodes, not {nodes}");
        }
        static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nth = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let process = std::process::id();
        let tag = format!("mx{}-{nth}", process % 100_000);
        let third = u8::try_from((process.wrapping_mul(7) + nth) % 250).unwrap_or(0);
        let namespaces = Self { tag, third, nodes };
        namespaces
            .build()
            .context("network namespaces cannot be made (root, ip and nft needed)")?;
        Ok(namespaces)
    }

    fn build(&self) -> anyhow::Result<()> {
        let bridge = self.bridge();
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        let gateway = format!("10.213.{}.254/24", self.third);
        run("ip", &["address", "add", &gateway, "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for id in 1..=self.nodes {
            let (name, outer) = (self.name(id), format!("{}v{id}", self.tag));
            run("ip", &["netns", "add", &name])?;
            run(
                "ip",
                &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name],
            )?;
            run("ip", &["link", "set", &outer, "master", &bridge, "up"])?;
            let address = format!("{}/24", self.address(id));
            self.inside(id, &["ip", "address", "add", &address, "dev", "eth0"])?;
            self.inside(id, &["ip", "link", "set", "eth0", "up"])?;
            self.inside(id, &["ip", "link", "set", "lo", "up"])?;
            self.inside(id, &["nft", "add", "table", "inet", "chaos"])?;
            let chain = ["nft", "add", "chain", "inet", "chaos", "input"];
            let hook = "{ type filter hook input priority 0 ; policy accept ; }";
            self.inside(id, &[&chain[..], &[hook]].concat())?;
        }
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("{}br", self.tag)
    }

    fn name(&self, id: u64) -> String {
        format!("{}-n{id}", self.tag)
    }

    fn inside(&self, id: u64, words: &[&str]) -> anyhow::Result<()> {
        let name = self.name(id);
        run("ip", &[&["netns", "exec", name.as_str()], words].concat())
    }

    /// A node's address.
    pub fn address(&self, id: u64) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.third, u8::try_from(id).unwrap_or(253))
    }

    /// The address of the harness, on the bridge.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.third, 254)
    }

    /// The command that starts `program` in a node's namespace. Its process is the program itself. `ip netns
    /// exec` would also give it its own mounts, which keep disks busy.
    pub fn command(&self, id: u64, program: &str) -> Vec<String> {
        let net = format!("--net=/run/netns/{}", self.name(id));
        vec!["nsenter".into(), net, program.into()]
    }

    /// Drops every packet from one node to another.
    pub fn block(&self, from: u64, to: u64) -> anyhow::Result<()> {
        let source = self.address(from).to_string();
        self.inside(
            to,
            &["nft", "add", "rule", "inet", "chaos", "input", "ip", "saddr", &source, "drop"],
        )
    }

    /// Ends all drops.
    pub fn heal(&self) -> anyhow::Result<()> {
        for id in 1..=self.nodes {
            self.inside(id, &["nft", "flush", "chain", "inet", "chaos", "input"])?;
            // The command fails if there is nothing to remove, which is fine.
            let _none = self.inside(id, &["tc", "qdisc", "del", "dev", "eth0", "root"]);
        }
        Ok(())
    }

    /// Drops `percent` of the packets that a node receives from the others, at random.
    pub fn lose(&self, id: u64, percent: u8) -> anyhow::Result<()> {
        let percent = percent.to_string();
        let rule = ["nft", "add", "rule", "inet", "chaos", "input", "ip", "saddr"];
        let peers = self.peers();
        let dice = ["numgen", "random", "mod", "100", "<", &percent, "drop"];
        self.inside(id, &[&rule[..], &[&peers], &dice].concat())
    }

    /// Drops packets that a node receives from the others above this rate.
    pub fn limit(&self, id: u64, packets_per_second: u32) -> anyhow::Result<()> {
        let rate = format!("{packets_per_second}/second");
        let rule = ["nft", "add", "rule", "inet", "chaos", "input", "ip", "saddr"];
        let peers = self.peers();
        let over = ["limit", "rate", "over", &rate, "burst", "20", "packets", "drop"];
        self.inside(id, &[&rule[..], &[&peers], &over].concat())
    }

    /// The addresses of the nodes as a set of nft, without that of the harness.
    fn peers(&self) -> String {
        let addresses: Vec<String> =
            (1..=self.nodes).map(|id| self.address(id).to_string()).collect();
        format!("{{ {} }}", addresses.join(", "))
    }

    /// Why packets cannot be delayed here; `None` if they can.
    pub fn netem_missing() -> Option<String> {
        let probe = probe_name();
        let made = run("ip", &["netns", "add", &probe]);
        let words = ["netns", "exec", &probe, "tc", "qdisc", "add", "dev", "lo", "root", "netem"];
        let shaped = made.and_then(|()| run("ip", &[&words[..], &["delay", "1ms"]].concat()));
        let _gone = run("ip", &["netns", "delete", &probe]);
        shaped.err().map(|error| format!("the kernel's netem: {error:#}"))
    }

    /// Delays what a node sends by this time, plus or minus `jitter_ms`, and loses this percentage.
    pub fn degrade(
        &self,
        id: u64,
        delay_ms: u32,
        jitter_ms: u32,
        loss_percent: u8,
    ) -> anyhow::Result<()> {
        let (delay, jitter) = (format!("{delay_ms}ms"), format!("{jitter_ms}ms"));
        let loss = format!("{loss_percent}%");
        let words = ["tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "delay"];
        self.inside(id, &[&words[..], &[&delay, &jitter, "loss", &loss]].concat())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for id in 1..=self.nodes {
            // This deletes both interfaces of the pair. The pair may be incomplete.
            let _gone = run("ip", &["netns", "delete", &self.name(id)]);
        }
        let _gone = run("ip", &["link", "delete", &self.bridge()]);
    }
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(words).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
