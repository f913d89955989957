//! How many calls are under way at once: fewer, and none for a while, after the API server said
//! that it has too much to do.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tracing::warn;

use crate::operator::metrics::Metrics;

/// Calls under way at once, as long as all is well.
const MOST: usize = 64;
/// The pause after a first refusal that names none.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, whatever the API server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Shared by all calls.
pub(super) struct Pace {
    turns: Semaphore,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

struct State {
    /// Calls that may be under way.
    limit: usize,
    /// Turns that are to be taken back, from calls still under way.
    surplus: usize,
    /// No call is sent before.
    resume_at: Instant,
    /// Pauses since the last answer that was no refusal.
    pauses: u32,
    /// Good answers since the limit was last changed.
    answered: usize,
}

/// The turn of one call; over when dropped.
pub(super) struct Turn<'a> {
    pace: &'a Pace,
    permit: Option<SemaphorePermit<'a>>,
}

impl Pace {
    pub(super) fn new(metrics: Arc<Metrics>) -> Pace {
        metrics.show_call_limit(MOST);
        Pace {
            turns: Semaphore::new(MOST),
            state: Mutex::new(State {
                limit: MOST,
                surplus: 0,
                resume_at: Instant::now(),
                pauses: 0,
                answered: 0,
            }),
            metrics,
        }
    }

    /// Waits for a turn, and for the end of a pause.
    pub(super) async fn turn(&self) -> Turn<'_> {
        // The semaphore is never closed; should it be, the call is only unbounded.
        let permit = self.turns.acquire().await.ok();
        let turn = Turn { pace: self, permit };
        loop {
            let resume_at = self.lock().resume_at;
            if resume_at <= Instant::now() {
                return turn;
            }
            tokio::time::sleep_until(resume_at).await;
        }
    }

    /// The API server did what was asked, or had something against that very call.
    pub(super) fn answered(&self) {
        let mut state = self.lock();
        state.pauses = 0;
        if state.limit == MOST {
            return;
        }
        state.answered += 1;
        // One more each time that so many were well: slow after a hard fall.
        if state.answered < state.limit {
            return;
        }
        state.answered = 0;
        state.limit += 1;
        if state.surplus > 0 {
            state.surplus -= 1;
        } else {
            self.turns.add_permits(1);
        }
        self.metrics.show_call_limit(state.limit);
    }

    /// The API server has too much to do. Those that were under way together are refused
    /// together: they count once.
    pub(super) fn refused(&self, retry_after: Option<Duration>) {
        self.metrics.count_throttled();
        let now = Instant::now();
        let mut state = self.lock();
        let paused = state.resume_at > now;
        if !paused {
            let grown = FIRST_PAUSE.saturating_mul(1 << state.pauses.min(5));
            let pause = retry_after.unwrap_or_default().max(grown);
            state.resume_at = now + pause.min(LONGEST_PAUSE);
            state.pauses = state.pauses.saturating_add(1);
            self.slow_down(&mut state);
            warn!(
                limit = state.limit,
                pause = ?pause.min(LONGEST_PAUSE),
                "the API server has too much to do; calls slow down"
            );
        } else if let Some(asked) = retry_after {
            state.resume_at = state.resume_at.max(now + asked.min(LONGEST_PAUSE));
        }
    }

    fn slow_down(&self, state: &mut State) {
        let limit = (state.limit / 2).max(1);
        let fewer = state.limit - limit;
        state.surplus += fewer - self.turns.forget_permits(fewer);
        state.limit = limit;
        state.answered = 0;
        self.metrics.show_call_limit(limit);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        if state.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(Arc::new(Metrics::new(|_| ())))
    }

    fn limit(pace: &Pace) -> usize {
        pace.lock().limit
    }

    /// How many turns are to be had at once.
    async fn turns(pace: &Pace) -> usize {
        let mut held = Vec::new();
        let wait = Duration::from_secs(60);
        while let Ok(turn) = tokio::time::timeout(wait, pace.turn()).await {
            held.push(turn);
        }
        held.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_halves_the_limit_also_of_calls_under_way() {
        let pace = pace();
        let mut under_way = Vec::new();
        for _ in 0..MOST {
            under_way.push(pace.turn().await);
        }
        pace.refused(None);
        pace.refused(None);
        drop(under_way);
        assert_eq!((limit(&pace), turns(&pace).await), (32, 32));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_without_an_answer_between_pause_longer_and_leave_one_turn() {
        let pace = pace();
        let start = Instant::now();
        for _ in 0..7 {
            pace.refused(None);
            drop(pace.turn().await);
        }
        let seconds = 1 + 2 + 4 + 8 + 16 + 30 + 30;
        assert_eq!(start.elapsed().as_secs(), seconds);
        assert_eq!((limit(&pace), turns(&pace).await), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_grows_back_step_by_step_to_what_it_was() {
        let pace = pace();
        pace.refused(None);
        let mut good = 0;
        while limit(&pace) < MOST {
            drop(pace.turn().await);
            pace.answered();
            good += 1;
        }
        assert_eq!(good, (32..64).sum::<usize>());
        assert_eq!(turns(&pace).await, MOST);
    }
}
