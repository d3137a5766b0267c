use super::*;
use crate::peer::PeerRouter;
use crate::supervisor::Supervised;
use maxine_store::MemoryStore;

fn grant(holder: &str) -> Batch {
    let proposal = Proposal {
        request_id: RequestId(rand::random()),
        proposed_at_ms: 1,
        fence: None,
        actor: Who::system("test"),
        command: Command::GrantLeadership { holder: Name::trusted(holder) },
    };
    Batch { proposals: vec![proposal] }
}

/// A leadership actor with a store in memory, on its own actor system.
fn with_actor(test: impl AsyncFnOnce(Arc<MemoryStore>, Arc<View>, Duties)) {
    let system = actix_rt::System::new();
    system.block_on(async {
        let clock = Clock::system();
        let view = View::new(clock.clone());
        let store = Arc::new(MemoryStore::new(Arc::clone(&view), "a", PeerRouter::new()));
        let (sender, duties) = watch::channel(None);
        let actor = {
            let (store, view) = (Arc::clone(&store), Arc::clone(&view));
            Supervised::start(&actix_rt::Arbiter::current(), move |lifeline| {
                let (store, view) = (Arc::clone(&store), Arc::clone(&view));
                let name = Name::trusted("a");
                LeadershipActor::new(name, store, view, clock.clone(), sender.clone(), lifeline)
            })
        };
        test(store, view, duties).await;
        actor.stop();
    });
}

async fn fence(duties: &mut Duties, wanted: impl FnMut(&Option<Fence>) -> bool) -> Option<Fence> {
    let wait = duties.wait_for(wanted);
    *tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time").expect("it lives")
}

#[test]
fn the_record_of_a_takeover_says_how_the_leadership_before_ended() {
    for (is_itself, gap_ms, text) in [
        (false, 12, "node-2 handed over, no leader for 12 ms"),
        (false, 812, "node-2, no leader for 812 ms"),
        (true, 12, "node-2 leads again, no leader for 12 ms"),
        (true, 4_000, "node-2 leads again, no leader for 4000 ms"),
    ] {
        assert_eq!(takeover_object("node-2", is_itself, gap_ms), text);
        assert_eq!(read_takeover(text), Some(("node-2", gap_ms)));
    }
    assert_eq!(read_takeover("node-2"), None);
}

#[test]
fn an_election_is_noted_with_its_term_from_the_loss_of_the_leader_to_the_grant() {
    with_actor(async |store, view, mut duties| {
        fence(&mut duties, Option::is_some).await;
        let (sender, taken) = std::sync::mpsc::channel();
        view.take_work(move |work| sender.send(work).expect("the test waits"));
        store.set_available(false);
        fence(&mut duties, Option::is_none).await;
        store.set_available(true);
        let granted = fence(&mut duties, Option::is_some).await;
        let noted = taken.try_recv().expect("it was noted before the duties were taken up");
        assert_eq!(noted.kind, WorkKind::Election);
        assert_eq!(noted.outcome.index, granted.map(|fence| fence.0));
        assert_eq!(noted.outcome.error, None);
        assert_eq!(noted.outcome.facts[0], ("maxine.term", 2_u64.into()));
        let (applying_us, applied_us) = noted.applied_us.expect("the grant was applied here");
        assert!(noted.began_us <= applying_us && applied_us <= noted.ended_us);
        assert!(taken.try_recv().is_err(), "one election is one record");
    });
}

#[test]
fn a_leader_that_a_late_grant_superseded_asks_for_its_duties_again() {
    with_actor(async |store, view, mut duties| {
        let first = fence(&mut duties, Option::is_some).await;
        // The grant of an earlier leader arrives only now; this node still leads.
        store.propose(grant("b"), GRANT_TIMEOUT.into()).await.expect("it is taken");
        let again = fence(&mut duties, |now| now.is_some() && *now != first).await;
        assert_eq!(again, view.snapshot().state.grant().map(|grant| grant.fence));
        assert_eq!(view.snapshot().state.grant().expect("granted").holder.as_str(), "a");
    });
}

#[test]
fn a_leader_whose_grant_the_store_lost_asks_for_its_duties_again() {
    with_actor(async |store, view, mut duties| {
        let lost = view.snapshot().state.clone();
        fence(&mut duties, Option::is_some).await;
        // The store was set back to a time before the grant, as after a restored dump.
        store.replace(lost);
        let again = fence(&mut duties, |now| {
            now.is_some() && *now == view.snapshot().state.grant().map(|grant| grant.fence)
        });
        assert!(again.await.is_some());
        assert_eq!(view.snapshot().state.grant().expect("granted").holder.as_str(), "a");
    });
}
