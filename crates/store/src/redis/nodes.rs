//! This node's entry in the list of nodes in Redis, and the entries of the others.

use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, RedisResult};

use super::Core;
use super::scripts::{self, Script};
use crate::node_register::{KEPT_MS, NODES_MAX, REPORT_MS, StoreNode};
use maxine_state::STATE_VERSION;

impl Core {
    /// Reports and reads the addresses of the others until the node stops, and then removes its entry. The
    /// reports are writes, so they also show whether Redis takes writes while no client sends one.
    pub(super) async fn run_node_register(self: Arc<Self>) {
        let report = self.own_report();
        loop {
            Arc::clone(&self).note_newest().await;
            let args = report.each_ref().map(String::as_bytes);
            let reported: RedisResult<u64> = self.ask_nodes(&scripts::REPORT, &args).await;
            let nodes = match reported {
                Ok(_) => {
                    self.note_report_accepted();
                    self.registered_nodes().await
                }
                Err(error) => {
                    self.note_refusal(&error, true);
                    Err(error)
                }
            };
            match nodes {
                Ok(nodes) => {
                    let addresses = nodes.into_iter().flat_map(|node| node.addresses).collect();
                    *self.node_addresses.lock() = addresses;
                }
                Err(error) => tracing::debug!(%error, "this node could not report to redis"),
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(Duration::from_millis(REPORT_MS)) => {}
            }
        }
        Arc::clone(&self).note_newest().await;
        if let Err(error) = self.forget(&self.config.instance_id).await {
            tracing::info!(%error, "this node's entry in redis could not be removed; it counts as silent");
        }
    }

    /// The arguments of [`scripts::REPORT`] for this node.
    pub(super) fn own_report(&self) -> [String; 5] {
        [
            self.config.instance_id.clone(),
            STATE_VERSION.to_string(),
            KEPT_MS.to_string(),
            NODES_MAX.to_string(),
            self.config.api_addresses.join(","),
        ]
    }

    /// Notes the newest state on this node's own disk.
    async fn note_newest(self: Arc<Self>) {
        let note = move || {
            let state = self.replica.state().0;
            self.newest.lock().note(&state);
        };
        if let Err(error) = tokio::task::spawn_blocking(note).await {
            tracing::warn!(%error, "the newest state could not be noted");
        }
    }

    /// The nodes that report to Redis.
    pub(super) async fn registered_nodes(&self) -> RedisResult<Vec<StoreNode>> {
        let max = NODES_MAX.to_string();
        let found: Vec<(Vec<u8>, u32, u64, Vec<u8>)> =
            self.ask_nodes(&scripts::NODES, &[max.as_bytes()]).await?;
        // A node writes UTF-8. Other entries are left out, so that they do not hide the nodes.
        let node = |(name, state_version, last_seen_ms, addresses)| {
            let addresses = String::from_utf8(addresses).ok()?;
            let addresses = addresses.split(',').map(str::to_owned).collect();
            let name = String::from_utf8(name).ok()?;
            Some(StoreNode { name, state_version, last_seen_ms, addresses })
        };
        Ok(found.into_iter().filter_map(node).collect())
    }

    /// Removes a node's entry. Returns whether it existed.
    pub(super) async fn forget(&self, name: &str) -> RedisResult<bool> {
        let removed: u64 = self.ask_nodes(&scripts::FORGET, &[name.as_bytes()]).await?;
        Ok(removed > 0)
    }

    async fn ask_nodes<T: FromRedisValue>(
        &self,
        script: &Script,
        args: &[&[u8]],
    ) -> RedisResult<T> {
        let (mut link, generation) = self.main.get().await?;
        let keys = [&*self.keys.nodes];
        let answer = script.run(&mut link, &keys, args, self.config.command_timeout()).await;
        answer.inspect_err(|error| self.main.report(generation, error))
    }
}
