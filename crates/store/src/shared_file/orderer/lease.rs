//! Takes, renews and gives back the lease in the leader's file.

use super::super::leader_file::{self, LeaderRecord};
use super::{Failure, Orderer};

impl Orderer {
    fn read_record(&self) -> Option<LeaderRecord> {
        let read = leader_file::read(&self.shared.leader_path);
        read.inspect_err(|error| tracing::warn!(%error, "the leader's file")).ok().flatten()
    }

    /// Whether the record still names this node as leader, and its time has not run out. While this node
    /// holds the lock, no other node can take over.
    pub(super) fn confirms_lease(&self) -> bool {
        let Some(fencing_token) = self.shared.held_lease() else { return false };
        let record = self.read_record().unwrap_or_default();
        let mine =
            record.token == self.shared.tokens.mine() && record.fencing_token == fencing_token;
        if !mine {
            self.shared.end_lease();
        }
        mine
    }

    pub(super) fn take_or_renew_lease(&mut self) -> Result<(), Failure> {
        let now_ms = self.shared.clock.monotonic_ms();
        if now_ms < self.lease_due_ms {
            return Ok(());
        }
        let config = &self.shared.config;
        let (renew_ms, lease_ms) = (config.renew_ms, config.lease_ms);
        let poll_ms = (renew_ms / 5).clamp(20, 1_000);
        let leads = self.shared.held_lease().is_some();
        let done = if leads { self.renew() } else { self.contend(lease_ms) };
        self.shared.publish_leadership();
        let pause_ms = if self.shared.held_lease().is_some() { renew_ms } else { poll_ms };
        let pause_ms = if done.is_err() { poll_ms } else { pause_ms };
        self.lease_due_ms = self.shared.clock.monotonic_ms() + pause_ms;
        match done {
            Err(Failure::Busy) => Ok(()),
            other => other,
        }
    }

    fn renew(&mut self) -> Result<(), Failure> {
        self.locked(|orderer| {
            if !orderer.confirms_lease() {
                return Ok(());
            }
            let started_ms = orderer.shared.clock.monotonic_ms();
            let Some(mut record) = orderer.read_record() else { return Ok(()) };
            record.renewals += 1;
            orderer.write_record(&record, false)?;
            orderer.shared.hold_lease(record, started_ms);
            Ok(())
        })
    }

    fn contend(&mut self, lease_ms: u64) -> Result<(), Failure> {
        let record = self.read_record();
        let now_ms = self.shared.clock.monotonic_ms();
        if self.observed.0 != record {
            self.observed = (record.clone(), now_ms);
        }
        let unchanged_ms = now_ms.saturating_sub(self.observed.1);
        let lapsed = unchanged_ms >= lease_ms + self.shared.margin_ms();
        let given_back = record.as_ref().is_none_or(|record| record.token.is_empty());
        let tokens = &self.shared.tokens;
        let is_left =
            record.as_ref().is_some_and(|record| tokens.is_of_ended_process(&record.token));
        let vacant = lapsed || given_back || is_left;
        // Its time is counted from its last change, however often it is read.
        self.shared.note_record(record.filter(|_| !vacant), self.observed.1);
        // A node that does not compete takes the lease too, if there has been no leader for so long that no
        // other node will lead. Otherwise, a node that is alone would never have a leader.
        let competes = self.shared.config.election_enabled || unchanged_ms >= 2 * lease_ms;
        if is_left && !competes {
            return self.give_back_if(|orderer| orderer.read_record() == orderer.observed.0);
        }
        if !vacant || !competes {
            return Ok(());
        }
        self.locked(|orderer| {
            let now = orderer.read_record();
            if now != orderer.observed.0 {
                return Ok(());
            }
            let started_ms = orderer.shared.clock.monotonic_ms();
            let highest = orderer.shared.highest_fence();
            let before = now.map_or(0, |record| record.fencing_token).max(highest);
            let record = LeaderRecord {
                instance_id: orderer.shared.config.instance_id.clone(),
                token: orderer.shared.tokens.mine().to_owned(),
                fencing_token: before + 1,
                acquired_at: orderer.shared.clock.wall_ms(),
                renewals: 0,
                call_addr: orderer.call_addr.clone(),
            };
            orderer.write_record(&record, true)?;
            orderer.shared.hold_lease(record, started_ms);
            Ok(())
        })
    }

    fn write_record(&self, record: &LeaderRecord, durable: bool) -> Result<(), Failure> {
        let written = leader_file::write(&self.shared.leader_path, record, durable);
        written.map_err(|error| super::not_written("the leader's file", &error))
    }

    pub(super) fn release_lease(&mut self) {
        if self.give_back_if(Self::confirms_lease).is_err() {
            tracing::info!("the lease could not be released; it ends when its time is over");
        }
    }

    /// Gives back the lease in the file, if `is_ours` confirms under the lock that this process holds it, or no
    /// process does.
    fn give_back_if(&mut self, is_ours: impl FnOnce(&Self) -> bool) -> Result<(), Failure> {
        self.locked(|orderer| {
            if !is_ours(orderer) {
                return Ok(());
            }
            let Some(record) = orderer.read_record() else { return Ok(()) };
            let fencing_token = record.fencing_token;
            orderer.write_record(&LeaderRecord { fencing_token, ..Default::default() }, false)
        })
    }
}
