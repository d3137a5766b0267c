//! Scheduled backups. The leader makes them, verifies each by a restore, and records it in the audit log.
//!
//! Every node reads in the audit log when the newest one was verified. So a new leader continues the schedule, and each
//! node reports a newest backup that is too old. Nothing here makes a request wait.

mod files;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry as Metrics};
use tokio::sync::watch;

use super::assemble::Assembled;
use super::settings;
use crate::config::{BackendKind, BackupSchedule, NodeConfig};
use files::BackupFiles;
use maxine_actors::{Registry, WriteRequest};
use maxine_clock::{Clock, SKEW_MAX_MS};
use maxine_state::{Actor, AuditAction, Command, Fence};
use maxine_store::{BackupSummary, ControlStore};
use maxine_telemetry::{AlertKind, Notice, Telemetry};
use maxine_view::{View, WorkKind};

/// Interval between two checks of whether a backup is due.
const PAUSE: Duration = Duration::from_secs(5);
/// Time after a failed attempt before the next one, in milliseconds.
const RETRY_AFTER_MS: u64 = 5 * 60_000;
/// The newest backup is too old after this number of periods.
const PERIODS_MAX: u64 = 2;
/// A node whose copy of the state may be older than this, in milliseconds, does not know the newest backup.
const STATE_OLD_MS: u64 = 10_000;
/// The part of Maxine that makes the backups, in the audit log.
const PART: &str = "scheduled-backup";

const VERIFIED: &str = "verified";
const FAILED: &str = "failed";

/// The metrics of scheduled backups.
struct BackupMetrics {
    results: IntCounterVec,
    /// Without a label, so that it is absent while no backup is known.
    newest: IntGaugeVec,
}

impl BackupMetrics {
    /// Declares them in `registry`.
    fn new(registry: &Metrics) -> Self {
        let results =
            Opts::new("maxine_backups_total", "Scheduled backups of this node, by result");
        let results =
            IntCounterVec::new(results, &["result"]).expect("the names are constants and valid");
        let newest = Opts::new(
            "maxine_backup_newest_timestamp_seconds",
            "When the newest scheduled backup was verified, on any node, in seconds since 1970",
        );
        let newest = IntGaugeVec::new(newest, &[]).expect("the name is a constant and valid");
        // This happens only with a second node in the same process. Its metrics are not exported.
        if registry.register(Box::new(results.clone())).is_err()
            || registry.register(Box::new(newest.clone())).is_err()
        {
            tracing::warn!("the metrics of backups are registered already");
        }
        for result in [VERIFIED, FAILED] {
            results.with_label_values(&[result]).reset();
        }
        Self { results, newest }
    }

    fn set_newest(&self, newest_ms: Option<u64>) {
        match newest_ms {
            Some(ms) => {
                let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
                self.newest.with_label_values::<&str>(&[]).set(seconds);
            }
            None => self.newest.reset(),
        }
    }
}

/// An attempt that made no backup.
struct FailedAttempt {
    attempt: u32,
    /// When the next attempt follows, on the monotonic clock, in milliseconds.
    next_ms: u64,
    message: String,
}

/// The scheduled backups of one node.
pub(super) struct Backups {
    node: String,
    schedule: BackupSchedule,
    files: BackupFiles,
    metrics: BackupMetrics,
    store: Arc<dyn ControlStore>,
    view: Arc<View>,
    registry: Registry,
    clock: Clock,
    telemetry: Telemetry,
    duties: watch::Receiver<Option<Fence>>,
}

impl Backups {
    /// The backups of a node with these settings; `None` if it makes none. Declares the metrics of every node in Raft
    /// mode.
    pub(super) fn new(config: &NodeConfig, assembled: &Assembled) -> Option<Self> {
        if config.backend != BackendKind::Raft {
            return None;
        }
        let state = &assembled.state;
        let metrics = BackupMetrics::new(state.telemetry().metrics().registry());
        let files = BackupFiles {
            directory: settings::backup_dir(config)?,
            cluster_id: config.raft.cluster_id.clone(),
            node_id: config.node_id,
            keep: config.backup.keep,
        };
        Some(Self {
            node: config.name(),
            schedule: config.backup.schedule?,
            files,
            metrics,
            store: Arc::clone(state.store()),
            view: Arc::clone(state.view()),
            registry: state.registry().clone(),
            clock: state.clock().clone(),
            telemetry: state.telemetry().clone(),
            duties: assembled.duties.clone(),
        })
    }

    /// Runs until dropped.
    pub(super) async fn run(self) {
        self.view.has_state().await;
        // A backup may take long or hang with its disk, so the watch does not wait for it.
        tokio::join!(self.keep_making(), self.keep_watching());
    }

    async fn keep_making(&self) {
        let mut failed = self.unfinished().await;
        let (mut made_ms, mut unrecorded): (Option<u64>, _) = (None, None);
        loop {
            let newest_ms = self.newest_ms().max(made_ms);
            if self.duties.borrow().is_none() {
                self.telemetry.withdraw(AlertKind::BackupFailed, &self.node);
            } else if !is_due(self.schedule, newest_ms, self.clock.wall_ms()) {
                failed = None;
                self.telemetry.clear(AlertKind::BackupFailed, &self.node);
            } else if let Some(last) = &failed
                && self.clock.monotonic_ms() < last.next_ms
            {
                self.raise(last);
            } else {
                let attempt = failed.as_ref().map_or(0, |last| last.attempt) + 1;
                match self.make().await {
                    Ok(summary) => {
                        (made_ms, failed) = (Some(self.clock.wall_ms()), None);
                        unrecorded = Some(summary);
                        self.metrics.results.with_label_values(&[VERIFIED]).inc();
                        self.telemetry.clear(AlertKind::BackupFailed, &self.node);
                    }
                    Err(why) => {
                        let last = self.failed(attempt, RETRY_AFTER_MS, &why);
                        self.metrics.results.with_label_values(&[FAILED]).inc();
                        tracing::warn!("{}", last.message);
                        self.raise(&last);
                        failed = Some(last);
                    }
                }
            }
            if let Some(summary) = &unrecorded
                && self.record(summary).await
            {
                unrecorded = None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The last attempt of this node before it was started again, if it made no backup. Without this, an attempt that ends
    /// the process would be repeated at once by each start.
    async fn unfinished(&self) -> Option<FailedAttempt> {
        let files = self.files.clone();
        let began_ms = tokio::task::spawn_blocking(move || files.unfinished_ms()).await.ok()??;
        let age_ms = self.clock.wall_ms().saturating_sub(began_ms);
        let began = maxine_telemetry::events::iso_8601(began_ms);
        let why = format!(
            "it began before this node was started again, at about {began}, and made no backup"
        );
        Some(self.failed(1, RETRY_AFTER_MS.saturating_sub(age_ms), &why))
    }

    /// The alert has the text of the line in the log.
    fn raise(&self, last: &FailedAttempt) {
        let message = last.message.clone();
        self.telemetry.raise(Notice::new(AlertKind::BackupFailed, &*self.node, message));
    }

    fn failed(&self, attempt: u32, pause_ms: u64, why: &str) -> FailedAttempt {
        let next_at_ms = self.clock.wall_ms() + pause_ms;
        FailedAttempt {
            attempt,
            next_ms: self.clock.monotonic_ms() + pause_ms,
            message: failure_text(&self.files.directory, attempt, next_at_ms, why),
        }
    }

    /// Makes and verifies one backup.
    async fn make(&self) -> Result<BackupSummary, String> {
        let working = self.view.begin_work(WorkKind::Backup);
        let made = self.make_verified().await;
        if made.is_err() {
            let files = self.files.clone();
            let _ended = tokio::task::spawn_blocking(move || files.abandon()).await;
        }
        self.view.end_work(working, || BackupSummary::outcome(made.as_ref().map_err(Clone::clone)));
        made
    }

    async fn make_verified(&self) -> Result<BackupSummary, String> {
        let admin = self.store.cluster().ok_or("this node has no Raft log")?;
        let files = self.files.clone();
        let draft = tokio::task::spawn_blocking(move || files.begin()).await;
        let draft = draft.map_err(|error| error.to_string())??;
        let summary = admin.backup(&draft).await.map_err(|error| error.to_string())?;
        let (files, index, now_ms) = (self.files.clone(), summary.index, self.clock.wall_ms());
        let file = tokio::task::spawn_blocking(move || files.finish(index, now_ms)).await;
        let file = file.map_err(|error| error.to_string())??;
        tracing::info!(file = %file.display(), index, "a scheduled backup was made and verified");
        Ok(summary)
    }

    /// Records a verified backup in the audit log. Returns whether this succeeded.
    async fn record(&self, summary: &BackupSummary) -> bool {
        let object = format!("index {}, {} bytes, verified", summary.index, summary.len_bytes);
        let items = vec![(AuditAction::ClusterBackup, object.into(), true)];
        let request = WriteRequest {
            actor: Actor::system(PART),
            request_id: None,
            fence: None,
            answer_by_ms: None,
            command: Command::RecordAudit { items },
        };
        let recorded = self.registry.propose(request).await;
        if let Err(error) = &recorded {
            tracing::warn!(%error, "a scheduled backup could not be recorded in the audit log yet");
        }
        recorded.is_ok()
    }

    /// When the newest scheduled backup was recorded, by the audit log.
    fn newest_ms(&self) -> Option<u64> {
        let user = Actor::system(PART).user;
        let snapshot = self.view.snapshot();
        let record = snapshot.state.audit().newest_success(AuditAction::ClusterBackup, &user);
        record.map(|record| record.time_ms)
    }

    async fn keep_watching(&self) {
        let began_ms = self.clock.wall_ms();
        loop {
            let is_current = self.store.staleness_ms().is_some_and(|age_ms| age_ms < STATE_OLD_MS);
            let newest_ms = self.newest_ms();
            self.metrics.set_newest(newest_ms);
            let now_ms = self.clock.wall_ms();
            match too_old(self.schedule, newest_ms, began_ms, now_ms) {
                _ if !is_current => self.telemetry.withdraw(AlertKind::BackupOld, CLUSTER),
                Some(message) => {
                    self.telemetry.raise(Notice::new(AlertKind::BackupOld, CLUSTER, message));
                }
                None => self.telemetry.clear(AlertKind::BackupOld, CLUSTER),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The object of the alert about the newest backup.
const CLUSTER: &str = "cluster";

/// Whether a backup is due, if the newest one was made at `newest_ms`. The clocks of two nodes may differ a little, and the
/// backup of one must not be due again on the other.
fn is_due(schedule: BackupSchedule, newest_ms: Option<u64>, now_ms: u64) -> bool {
    newest_ms.is_none_or(|at_ms| at_ms + SKEW_MAX_MS < schedule.due_ms(now_ms))
}

/// What happened to an attempt that failed, and when the next one is made. The reason of a full disk names no file.
fn failure_text(directory: &Path, attempt: u32, next_ms: u64, why: &str) -> String {
    let (directory, next) = (directory.display(), maxine_telemetry::events::iso_8601(next_ms));
    format!(
        "the scheduled backup to {directory} failed (attempt {attempt}; the next one is made at about {next}): {why}"
    )
}

/// What is wrong if the newest backup is too old. Without one, the time counts from `began_ms`, when this node began to
/// look.
fn too_old(
    schedule: BackupSchedule,
    newest_ms: Option<u64>,
    began_ms: u64,
    now_ms: u64,
) -> Option<String> {
    let since_ms = newest_ms.unwrap_or(began_ms);
    let is_old = now_ms.saturating_sub(since_ms) > PERIODS_MAX * schedule.period_ms();
    is_old.then(|| match newest_ms {
        Some(at_ms) => {
            let at = maxine_telemetry::events::iso_8601(at_ms);
            format!("the newest verified scheduled backup was made at {at}, more than {PERIODS_MAX} periods ago")
        }
        None => {
            let at = maxine_telemetry::events::iso_8601(began_ms);
            format!("no scheduled backup is known, and this node has looked for one since {at}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const SIX: BackupSchedule = BackupSchedule::EveryHours(6);
    /// A midnight.
    const BEGAN_MS: u64 = 20_000 * 24 * HOUR_MS;

    #[test]
    fn a_backup_is_due_once_in_each_period() {
        let due = |newest_ms, after_ms: u64| is_due(SIX, newest_ms, BEGAN_MS + after_ms);
        assert!(due(None, 1), "the first one does not wait");
        assert!(!due(Some(BEGAN_MS + 1), 6 * HOUR_MS - 1));
        assert!(due(Some(BEGAN_MS + 1), 6 * HOUR_MS));
        // The clock of the node that made it was behind.
        assert!(!due(Some(BEGAN_MS + 6 * HOUR_MS - SKEW_MAX_MS), 6 * HOUR_MS));
        assert!(!due(Some(BEGAN_MS + 7 * HOUR_MS), 6 * HOUR_MS));
    }

    #[test]
    fn a_failed_attempt_is_reported_with_its_folder_its_number_and_the_time_of_the_next_one() {
        let text = failure_text(Path::new("/backups"), 2, BEGAN_MS, "No space left on device");
        let at = maxine_telemetry::events::iso_8601(BEGAN_MS);
        let expected = format!(
            "the scheduled backup to /backups failed (attempt 2; the next one is made at about {at}): No space left on device"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_newest_backup_is_too_old_after_two_periods_also_if_there_is_none() {
        let old = |newest_ms, after_ms: u64| too_old(SIX, newest_ms, BEGAN_MS, BEGAN_MS + after_ms);
        assert_eq!(old(None, 12 * HOUR_MS), None);
        assert!(old(None, 12 * HOUR_MS + 1).unwrap().contains("no scheduled backup is known"));
        let newest_ms = Some(BEGAN_MS + HOUR_MS);
        assert_eq!(old(newest_ms, 13 * HOUR_MS), None);
        assert!(old(newest_ms, 13 * HOUR_MS + 1).unwrap().contains("newest verified"));
        // A node that starts long after the newest one reports it at once.
        assert!(too_old(SIX, Some(1), BEGAN_MS, BEGAN_MS).is_some());
    }
}
