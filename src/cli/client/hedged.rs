//! Requests that may go to several nodes at the same time: reads, and writes whose repetition does no harm.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{ATTEMPT_MS_MAX, Answer, Attempt, Client, Repeat, Request};
use crate::cli::exit::CliError;
use maxine_store::WriteOutcome;

/// How long one node is waited for before the next one is asked too, in milliseconds, unless the request says
/// otherwise.
const HEDGE_MS_MAX: u64 = 1_000;

impl Client {
    /// Asks one node after the other, without waiting long for one that hangs: it may still answer while the next ones
    /// are asked. The first answer counts. Within the time limit every node is asked.
    pub(super) async fn hedged(&self, request: &Request) -> Result<Answer, CliError> {
        let count = self.servers.len();
        let limit_ms = self.limit_ms(request);
        let deadline_ms = self.clock.monotonic_ms() + limit_ms;
        let share_ms = limit_ms / (count as u64 + 1);
        let hedge_ms = request.hedge_ms.unwrap_or(HEDGE_MS_MAX.min(share_ms)).max(1);
        let first = self.preferred.load(Ordering::Relaxed);
        let mut positions = (0..count).map(|offset| (first + offset) % count);
        let mut running = FuturesUnordered::new();
        let (mut tried, mut last_problem, mut without_session) = (Vec::new(), None, false);
        let mut is_lost = false;
        loop {
            // One that ended without an answer is followed by the next one at once.
            if let Some(position) = positions.next() {
                let left_ms = deadline_ms.saturating_sub(self.clock.monotonic_ms());
                let budget_ms = if count > 1 { left_ms.min(ATTEMPT_MS_MAX) } else { left_ms };
                running.push(async move {
                    let attempt = self.attempt(&self.servers[position], request, budget_ms.max(1));
                    (position, attempt.await)
                });
            }
            let ended = if positions.len() > 0 {
                let pause = Duration::from_millis(hedge_ms);
                let Ok(ended) = tokio::time::timeout(pause, running.next()).await else { continue };
                ended
            } else {
                running.next().await
            };
            let Some((position, attempt)) = ended else { break };
            let server = &self.servers[position];
            match attempt {
                Attempt::Answered(answer) => {
                    self.preferred.store(position, Ordering::Relaxed);
                    self.tell_if_stale(request, &answer.headers);
                    return Ok(answer);
                }
                // The session may not be sent to this node. Another of the named nodes may accept it.
                Attempt::Refused(problem, _) if self.is_for_the_session(server, &problem) => {
                    without_session = true;
                    tried.push((server.to_string(), problem.to_string()));
                }
                Attempt::Refused(mut problem, headers) => {
                    if request.repeat == Repeat::Read {
                        problem.outcome = Some(WriteOutcome::NotDone);
                    }
                    if !problem.is_passing() {
                        self.preferred.store(position, Ordering::Relaxed);
                        if problem.is_of_the_copy() {
                            problem.stale_note = self.first_stale_note(request, &headers);
                        }
                        return Err(CliError::Problem(Box::new(problem)));
                    }
                    tried.push((server.to_string(), problem.to_string()));
                    last_problem = Some(problem);
                }
                Attempt::NotSent(why) => tried.push((server.to_string(), why)),
                Attempt::Lost(why) => {
                    is_lost = true;
                    tried.push((server.to_string(), why));
                }
            }
        }
        // A lost connection is no answer: whatever accepted it may be hung, or not be a node.
        let answered = last_problem.is_some() || without_session;
        Err(match last_problem {
            _ if is_lost && request.repeat != Repeat::Read => {
                CliError::OutcomeUnknown { tried, is_silent: count > 1, look: request.shown_by() }
            }
            Some(problem) if tried.len() == 1 => CliError::Problem(Box::new(problem)),
            _ => CliError::Unavailable { answered, tried },
        })
    }
}
