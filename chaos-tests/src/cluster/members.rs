//! Replaces a member by a new one, as the runbook describes: add it, give it a vote, and only then remove the
//! old one.

use std::time::Duration;

use anyhow::Context;
use reqwest::Method;
use serde_json::json;

use super::{Cluster, Node, client_of, disk_of, plan};
use crate::client::Outcome;
use crate::clock::until;

const PATIENCE: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_millis(200);

impl Cluster {
    /// Replaces `id` by a new member, with an empty disk and a new number, while clients work. The old one is
    /// stopped once it no longer has a vote.
    pub async fn replace_member(&mut self, id: u64) -> anyhow::Result<()> {
        self.members += 1;
        let member = self.members;
        let place = plan::place(&self.network, id, member)?;
        let advertised = self.network.advertise(id, place.peer)?;
        let at = self.redis_at();
        let new = plan::node(&self.plan, &self.dir, &self.network, at.as_ref(), &place)?;
        let old_member = self.node(id).member()?;
        let disk = match self.plan.disks {
            true => Some(disk_of(&new)?),
            false => None,
        };
        let mut new = Node::new(new);
        new.start()?;
        if let Some(pid) = new.pid() {
            self.network.set_process(id, pid);
        }
        let http = format!("http://{}", place.http);
        let body = json!({
            "id": member, "name": format!("node-{member}"),
            "peer_addr": advertised.to_string(), "http_addr": http,
        });
        self.change(Method::POST, "/api/v1/cluster/members", Some(&body)).await?;
        let promote = format!("/api/v1/cluster/members/{member}/promote");
        self.change(Method::POST, &promote, None).await?;
        self.change(Method::DELETE, &format!("/api/v1/cluster/members/{old_member}"), None).await?;
        let nth = self.nodes.iter().position(|node| node.plan().id == id).context("a node")?;
        self.clients[nth] = client_of(&new)?;
        let mut old = std::mem::replace(&mut self.nodes[nth], new);
        old.stop(Duration::from_secs(15)).await?;
        if let Some(disk) = disk {
            self.disks.insert(id, disk);
        }
        Ok(())
    }

    /// Asks one node after another until one succeeds. An earlier attempt may have succeeded, so a member
    /// that exists already, or is removed already, counts as success.
    async fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> anyhow::Result<()> {
        let mut last = None;
        let mut nth = 0;
        let clients = self.clients(Duration::from_secs(20))?;
        let attempt = async || {
            nth = (nth + 1) % clients.len();
            let client = &clients[nth];
            let outcome = match (&method, body) {
                (&Method::DELETE, _) => client.delete(path).await,
                (_, Some(body)) => client.post(path, body, &[]).await,
                _ => client.post(path, &json!({}), &[]).await,
            };
            let done = match &outcome {
                Outcome::Ok { .. } => true,
                Outcome::Refused { status: 404, .. } => method == Method::DELETE,
                Outcome::Refused { status: 409 | 422, .. } => {
                    body.is_some() && self.has_member(body).await
                }
                _ => false,
            };
            last = Some(outcome);
            done.then_some(())
        };
        until(PATIENCE, TRY_EVERY, attempt)
            .await
            .with_context(|| format!("{method} {path}: {last:?}"))
    }

    async fn has_member(&self, body: Option<&serde_json::Value>) -> bool {
        let Some(member) = body.and_then(|body| body["id"].as_u64()) else { return false };
        for id in self.ids() {
            let Some(status) = self.status(id).await else { continue };
            let members = status.pointer("/raft/members").and_then(|members| members.as_array());
            if members.into_iter().flatten().any(|one| one["id"] == member) {
                return true;
            }
        }
        false
    }
}

impl Node {
    /// Its number in the cluster, taken from its name.
    fn member(&self) -> anyhow::Result<u64> {
        let flag = self.plan().flags.iter().find_map(|flag| flag.strip_prefix("--node-id="));
        flag.context("a node of a Raft cluster")?.parse().context("a number")
    }
}
