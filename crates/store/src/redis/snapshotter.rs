//! Decides when a snapshot is due. The leader writes one after a number of entries, or when a node could not
//! build the state from the content of Redis.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::snapshot::{self, SnapshotFailure};
use super::survey::Survey;

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
        let (mut shared, generation) = self.main.get().await?;
        let survey = Survey::read(&mut shared, &self.keys, timeout).await;
        let survey = survey.inspect_err(|error| self.main.report(generation, error))?;
        let mine = self.replica.position();
        // If the stream accepts no entries, the task that follows the log repairs it.
        if !survey.takes_entries() || survey.head.as_ref().is_none_or(|h| h.epoch != mine.epoch) {
            return Ok(());
        }
        let covered = survey.base().map_or(0, |manifest| manifest.position.seq);
        let due = mine.seq.saturating_sub(covered) >= self.config.snapshot_every_entries;
        let is_whole = survey.is_whole();
        if !due && is_whole {
            return Ok(());
        }
        // This has its own connection, because a large upload must not delay renewals or writes.
        let link = &mut self.connector.connect().await?;
        let (state, position, recent) = self.replica.state();
        let encoded = tokio::task::spawn_blocking(move || snapshot::encode(&state)).await;
        let encoded = encoded.map_err(|error| SnapshotFailure::Unwritable(error.to_string()))??;
        let seq = position.seq;
        let uploaded =
            snapshot::upload(link, &self.keys, &encoded, position, recent, timeout).await?;
        // Nobody can use the entries before a gap.
        let keep = if is_whole { self.config.keep_entries } else { 0 };
        let word = snapshot::publish(link, &self.keys, &uploaded, keep, lease, timeout).await?;
        tracing::info!(position = seq, word, is_whole, "snapshot");
        Ok(())
    }
}
