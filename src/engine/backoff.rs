//! How long to wait before the next attempt: growing, bounded, and spread.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::api::ResolvedBackoff;

/// The wait before the attempt that follows the `failures`-th failure (from 1).
///
/// The jitter is drawn from `seed` (the task execution's UID) and the count: different for each
/// task, the same each time that this is asked.
pub fn delay(backoff: &ResolvedBackoff, failures: u32, seed: &str) -> Duration {
    let max = backoff.max.get().as_secs_f64();
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = backoff.initial.get().as_secs_f64() * backoff.factor.max(1.0).powi(exponent);
    // `min` also turns an overflow to infinity into the bound.
    let bounded = grown.min(max);
    let jitter = backoff.jitter.clamp(0.0, 1.0);
    let spread = bounded * (1.0 - jitter * draw(seed, failures));
    Duration::try_from_secs_f64(spread).unwrap_or(backoff.max.get())
}

/// A number from 0 to 1.
fn draw(seed: &str, count: u32) -> f64 {
    let digest = Sha256::new()
        .chain_update(seed)
        .chain_update(count.to_be_bytes())
        .finalize();
    let drawn = digest
        .iter()
        .take(4)
        .fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    f64::from(drawn) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Duration as Span;
    use proptest::prelude::*;

    fn backoff(initial: u64, factor: f64, max: u64, jitter: f64) -> ResolvedBackoff {
        ResolvedBackoff {
            initial: Span::from_millis(initial),
            factor,
            max: Span::from_millis(max),
            jitter,
        }
    }

    #[test]
    fn waits_double_up_to_the_bound() {
        let policy = backoff(1000, 2.0, 5000, 0.0);
        let waits: Vec<_> = (1..=5)
            .map(|n| delay(&policy, n, "uid").as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn two_tasks_do_not_wait_equally_long() {
        let policy = backoff(60_000, 2.0, 60_000, 0.5);
        assert_ne!(delay(&policy, 1, "uid-1"), delay(&policy, 1, "uid-2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn no_wait_is_longer_than_the_bound(
            initial in 0u64..10_000_000, factor in 1.0f64..100.0, max in 0u64..10_000_000,
            jitter in 0.0f64..1.0, failures in 0u32..u32::MAX,
        ) {
            let policy = backoff(initial, factor, max, jitter);
            prop_assert!(delay(&policy, failures, "uid") <= Duration::from_millis(max + 1));
        }
    }
}
