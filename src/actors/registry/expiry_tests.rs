use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::*;
use crate::actors::registry::leases::ExpirySettings;
use maxine_state::Leadership;
use maxine_state::{Address, Applied, Health, Instance, Name, Registration, ServiceKey};
use maxine_store::{CallError, ProposeError, ReadError, WriteTime};

/// Would order anything, but is told by no majority that this node leads.
#[derive(Default)]
struct Unconfirmed(AtomicUsize);

#[async_trait]
impl ControlStore for Unconfirmed {
    async fn propose(&self, batch: Batch, _: WriteTime) -> Result<Vec<Applied>, ProposeError> {
        self.0.fetch_add(batch.proposals.len(), Ordering::SeqCst);
        Err(ProposeError::OutcomeUnknown)
    }

    async fn barrier(&self, _: Consistency, _: Duration) -> Result<(), ReadError> {
        Err(ReadError::NoLeader)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }

    fn staleness_ms(&self) -> Option<u64> {
        Some(0)
    }

    async fn call_leader(&self, _: Bytes, _: Duration) -> Result<Bytes, CallError> {
        Ok(Bytes::new())
    }

    fn kind(&self) -> &'static str {
        "unconfirmed"
    }

    async fn shutdown(&self) {}
}

#[tokio::test]
async fn nothing_is_expired_unless_leadership_is_confirmed() {
    let clock = Clock::manual();
    let store = Arc::new(Unconfirmed::default());
    let duty = ExpiryDuty {
        node: "a".into(),
        store: Arc::clone(&store) as Arc<dyn ControlStore>,
        view: View::new(clock.clone()),
        clock: clock.clone(),
        leases: Arc::new(LeaseTable::new(ExpirySettings::default())),
        takeover_extra_ms: 0,
        status: ExpiryStatus::default(),
    };
    let service = ServiceKey::new(Name::trusted("default"), Name::trusted("s"));
    let key = service.instance(Name::trusted("a"));
    let address = Address::parse("http://10.0.0.1").unwrap();
    let instance = Instance {
        registration: Registration::new(key.instance.clone(), address, 1_000),
        lease_epoch: 1,
        registered_index: 1,
        address_index: 1,
        registered_at_ms: 0,
        modified_index: 1,
        health: Health::default(),
    };
    duty.leases.begin(Fence(1), clock.monotonic_ms());
    duty.leases.open(&key, &instance, clock.monotonic_ms());
    clock.advance(Duration::from_secs(60));
    let mut last_ms = clock.monotonic_ms();
    duty.expire_once(Fence(1), &mut last_ms).await.unwrap_err();
    assert_eq!(store.0.load(Ordering::SeqCst), 0, "an expiry was sent to be ordered");
    duty.expire_once(Fence(1), &mut last_ms).await.unwrap_err();
}
