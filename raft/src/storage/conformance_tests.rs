//! Runs the storage test suite of the consensus library on every engine.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::disk_health::DiskHealth;
use super::log_store::LogStore;
use super::open_engine;
use super::snapshots::SnapshotStore;
use super::state_machine::{SnapshotOrigin, StateMachine};
use crate::application::{Application, CommittedEntry, SnapshotEncoder};
use crate::config::EngineKind;
use crate::consensus::TypeConfig;

struct Count(u64);

impl SnapshotEncoder for Count {
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

impl Application for Count {
    fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>> {
        self.0 += entries.len() as u64;
        Ok(entries.iter().map(|_| Bytes::new()).collect())
    }

    fn snapshot(&self) -> Box<dyn SnapshotEncoder> {
        Box::new(Count(self.0))
    }

    fn restore(&mut self, _index: u64, input: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

struct Builder(EngineKind);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let engine = open_engine(self.0, dir.path(), 1024 * 1024).unwrap();
        let log = LogStore::open(engine, dir.path(), 1024, Arc::new(DiskHealth::new())).unwrap();
        let snapshots = Arc::new(SnapshotStore::open(dir.path(), 2).unwrap());
        let origin = SnapshotOrigin { cluster_id: "demo".into(), lineage: Arc::new(|| 0) };
        let machine = StateMachine::start(Box::new(Count(0)), snapshots, origin).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_passes_the_storage_suite() {
    Suite::test_all(Builder(EngineKind::Sled)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redb_passes_the_storage_suite() {
    Suite::test_all(Builder(EngineKind::Redb)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_passes_the_storage_suite() {
    Suite::test_all(Builder(EngineKind::Wal)).await.unwrap();
}
