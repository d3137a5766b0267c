//! Whose step of work is next, where work is done in short steps and its caller decides when it ends.
//!
//! A handshake is such work: each message of the client leads to a step that takes processor time, and between two steps
//! the client may be silent for as long as it likes. So only a step has a turn. Addresses share these turns as they share
//! the others.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::payer::Payer;
use super::site_of;
use super::turns::Turns;

/// Turns for steps of work that is done for callers without a credential. Whoever waits for a turn holds a place of
/// another kind, for example that of a connection, so the number of those who wait is not limited here.
#[derive(Debug)]
pub struct StepTurns(Arc<Turns>);

impl StepTurns {
    /// Two turns at the same time for each processor, one of them for the same address. The processors have work while a
    /// task that got its turn waits for a thread.
    #[must_use]
    pub fn for_this_machine() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(2 * processors, processors)
    }

    /// At most `max` turns at the same time, and at most `of_address_max` of one address.
    #[must_use]
    pub fn new(max: usize, of_address_max: usize) -> Self {
        Self(Arc::new(Turns::without_builders(max, of_address_max)))
    }

    /// Completes `work`, each step of it in a turn of this address. A step is one poll, so `work` must not wait inside a
    /// poll. Waiting has no time limit: dropping the future gives up the place in the queue.
    pub async fn run<F: Future>(&self, address: IpAddr, work: F) -> F::Output {
        let payer = Payer::Site(site_of(address));
        let mut work = pin!(work);
        loop {
            let mut turn = self.0.wait(payer).await;
            let mut has_run = false;
            let step = std::future::poll_fn(|cx| {
                // The task was woken, so the work can continue, in its next turn.
                if std::mem::replace(&mut has_run, true) {
                    return Poll::Ready(None);
                }
                let polled = work.as_mut().poll(cx);
                drop(turn.take());
                polled.map(Some)
            });
            if let Some(done) = step.await {
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_waits_for_its_caller_has_no_turn() {
        let turns = Arc::new(StepTurns::new(2, 1));
        let silent = |last: u8| {
            let turns = Arc::clone(&turns);
            tokio::spawn(
                async move { turns.run(address(last), std::future::pending::<()>()).await },
            )
        };
        let silent: Vec<_> = (1..=48).cycle().take(400).map(silent).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let pause = tokio::time::sleep(Duration::from_millis(100));
        let done = tokio::time::timeout(Duration::from_secs(1), turns.run(address(200), pause));
        done.await.expect("it gets a turn for each step");
        silent.iter().for_each(|one| one.abort());
    }

    #[tokio::test]
    async fn steps_of_many_addresses_do_not_keep_a_new_one_waiting() {
        for of_attack in [1..=1, 1..=48] {
            let turns = Arc::new(StepTurns::new(4, 2));
            let steps = Arc::new(AtomicUsize::new(0));
            let flood = |last: u8| {
                let (turns, steps) = (Arc::clone(&turns), Arc::clone(&steps));
                tokio::spawn(async move {
                    loop {
                        let step = async {
                            std::thread::sleep(Duration::from_micros(50));
                            steps.fetch_add(1, Ordering::Relaxed);
                        };
                        turns.run(address(last), step).await;
                    }
                })
            };
            let flood: Vec<_> = of_attack.cycle().take(400).map(flood).collect();
            // By then, each address has had turns.
            while steps.load(Ordering::Relaxed) < 2_000 {
                tokio::task::yield_now().await;
            }
            let newcomer = tokio::spawn(async move {
                let before = steps.load(Ordering::Relaxed);
                turns.run(address(200), std::future::ready(())).await;
                steps.load(Ordering::Relaxed) - before
            });
            let waited = newcomer.await.unwrap();
            assert!(waited <= 40, "400 others wait, and {waited} steps went before it");
            flood.iter().for_each(|one| one.abort());
        }
    }
}
