//! Works a queue off: so many keys at once, failures again after a growing wait.

use std::{collections::HashMap, future::Future, hash::Hash, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tracing::warn;

use super::{cluster::CallError, hub::Hub, metrics::Metrics, queue::Queue};

/// The wait after a first failure.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest wait after failures.
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Works off a queue of the hub, for ever. `reconcile` returns when to come back, if at all.
pub async fn drive<K, R, F>(
    kind: &'static str,
    hub: Arc<Hub>,
    queue: fn(&Hub) -> &Queue<K>,
    concurrency: usize,
    metrics: Arc<Metrics>,
    reconcile: R,
) where
    K: Clone + Eq + Hash + Send + std::fmt::Debug + 'static,
    R: Fn(K) -> F,
    F: Future<Output = Result<Option<Instant>, CallError>> + Send + 'static,
{
    let queue = queue(&hub);
    let mut working: JoinSet<(K, Result<Option<Instant>, CallError>)> = JoinSet::new();
    let mut failures: HashMap<K, u32> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = working.join_next() => {
                // The release build aborts on panic; elsewhere a lost key must not go unnoticed.
                let Ok((key, result)) = ended else { std::process::abort() };
                metrics.count_reconcile(kind, result.is_ok());
                settle(kind, queue, key, result, &mut failures);
            }
            key = queue.next(), if working.len() < concurrency => {
                let work = reconcile(key.clone());
                working.spawn(async move { (key, work.await) });
            }
        }
    }
}

fn settle<K: Clone + Eq + Hash + std::fmt::Debug>(
    kind: &'static str,
    queue: &Queue<K>,
    key: K,
    result: Result<Option<Instant>, CallError>,
    failures: &mut HashMap<K, u32>,
) {
    match result {
        Ok(next) => {
            failures.remove(&key);
            if let Some(due) = next {
                queue.add_at(key.clone(), due);
            }
        }
        Err(error) => {
            let count = failures.entry(key.clone()).or_default();
            *count += 1;
            let wait = retry_wait(*count);
            // A conflict is everyday life: the newer version is on its way.
            if error.is_expected() || error.is_conflict() && *count <= 3 {
                tracing::debug!(kind, ?key, %error, "will try again");
            } else {
                warn!(kind, ?key, %error, failures = *count, ?wait, "will try again");
            }
            queue.add_at(key.clone(), Instant::now() + wait);
        }
    }
    queue.done(&key);
}

fn retry_wait(failures: u32) -> Duration {
    let grown = RETRY_FIRST.saturating_mul(
        1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    let bounded = grown.min(RETRY_LONGEST);
    bounded.mul_f64(1.0 - 0.2 * fastrand::f64())
}
