//! When a snapshot is due: the leader writes one after so many entries, or when the log alone
//! would not be enough to build the state.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::Core;
use super::connect::Link;
use super::snapshot::{self, Manifest, SnapshotFailure};

/// A raw entry: its id and its fields.
type First = Vec<(String, Vec<Vec<u8>>)>;

impl Core {
    /// Writes snapshots while this node leads, until it stops.
    pub(super) async fn run_snapshots(self: Arc<Self>) {
        let look_every = Duration::from_millis(self.config.snapshot_check_ms);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(look_every) => {}
            }
            let Some(lease) = self.held_lease() else { continue };
            let work = self.snapshot_if_due(&lease);
            let done = tokio::select! {
                () = self.stop.cancelled() => return,
                done = work => done,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "no snapshot could be written");
            }
        }
    }

    async fn snapshot_if_due(&self, lease: &str) -> Result<(), SnapshotFailure> {
        let timeout = self.config.command_timeout();
        let (mut shared, _) = self.main.get().await?;
        let present = match snapshot::manifest(&mut shared, &self.keys, timeout).await {
            Err(SnapshotFailure::Damaged(text)) => {
                tracing::warn!(text, "the snapshot in redis is written anew");
                None
            }
            other => other?,
        };
        let mine = self.replica.position();
        let present = present.filter(|manifest| manifest.position.epoch == mine.epoch);
        let covered = present.as_ref().map_or(0, |manifest| manifest.position.seq);
        let due = mine.seq.saturating_sub(covered) >= self.config.snapshot_every_entries;
        if !due && self.is_whole(&mut shared, present.as_ref(), mine.seq).await? {
            return Ok(());
        }
        // A connection of its own: a large upload must not delay renewals or writes.
        let link = &mut self.connector.connect().await?;
        let (state, position) = self.replica.state();
        let encoded = tokio::task::spawn_blocking(move || snapshot::encode(&state)).await;
        let encoded = encoded
            .map_err(std::io::Error::other)
            .and_then(|encoded| encoded)
            .map_err(|error| SnapshotFailure::Damaged(error.to_string()))?;
        let uploaded = snapshot::upload(link, &self.keys, &encoded, timeout).await?;
        let keep = self.config.keep_entries;
        let word =
            snapshot::publish(link, &self.keys, &uploaded, &position, keep, lease, timeout).await?;
        tracing::info!(position = position.seq, word, "snapshot");
        Ok(())
    }

    /// Whether the state can be built from the snapshot and the log as they are.
    async fn is_whole(
        &self,
        link: &mut Link,
        present: Option<&Manifest>,
        mine: u64,
    ) -> Result<bool, SnapshotFailure> {
        let covered = present.map_or(0, |manifest| manifest.position.seq);
        if covered >= mine {
            return Ok(true);
        }
        let mut command = cmd("XRANGE");
        command.arg(&self.keys.log).arg("-").arg("+").arg("COUNT").arg(1);
        let first: First = link.query(&command, self.config.command_timeout()).await?;
        let first = first.first().and_then(|(id, _)| id.strip_suffix("-0")?.parse::<u64>().ok());
        Ok(first.is_some_and(|first| first <= covered + 1))
    }
}
