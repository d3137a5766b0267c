//! The place of a connection that was accepted without a credential.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::provisional::ProvisionalConnections;
use maxine_admission::{CallerClass, Leave, Place};
use parking_lot::Mutex;

/// Only this many requests of a connection are checked for a credential.
const CHECKS_MAX: u8 = 16;

/// The place of a connection among those that are open to strangers. Once a request shows a credential, the place
/// counts for its user, and callers without a credential cannot displace it any more.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    address: IpAddr,
    place: Mutex<Place>,
    leave: Arc<Leave>,
    provisional: Arc<ProvisionalConnections>,
    checks_left: AtomicU8,
}

impl ConnectionPlace {
    /// The place of a connection from this address. From now on, it may be displaced, which `leave` tells.
    pub(super) fn new(
        address: IpAddr,
        mut place: Place,
        leave: Arc<Leave>,
        provisional: Arc<ProvisionalConnections>,
    ) -> Arc<Self> {
        place.give_way(&leave);
        let checks_left = AtomicU8::new(CHECKS_MAX);
        Arc::new(Self { address, place: Mutex::new(place), leave, provisional, checks_left })
    }

    /// Says that the connection has sent a request.
    pub(super) fn has_spoken(&self) {
        self.leave.has_spoken();
    }

    /// Handles a request, which has a credential if `user_class` returns a class. If the user may have no more places,
    /// the place stays that of a stranger.
    pub(super) fn request(&self, user_class: impl FnOnce() -> Option<CallerClass>) {
        self.has_spoken();
        let check = |left: u8| left.checked_sub(1);
        let (relaxed, checks_left) = (Ordering::Relaxed, &self.checks_left);
        if checks_left.load(relaxed) == 0
            || checks_left.fetch_update(relaxed, relaxed, check).is_err()
        {
            return;
        }
        if let Some(user_class) = user_class() {
            checks_left.store(0, relaxed);
            self.provisional.has_shown_credential(self.address, user_class);
            self.place.lock().move_to(self.address, user_class);
        }
    }
}
