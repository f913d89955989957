//! Chance, as something that can be replaced.

use std::sync::{Mutex, PoisonError};

const TOKEN_LENGTH: usize = 8;

/// Makes up names that nobody else has.
pub trait Ids: Send + Sync {
    /// A short random token of lower-case letters and digits, fit for a Kubernetes name.
    fn token(&self) -> String;
}

/// Draws tokens from a generator that can be seeded.
#[derive(Debug)]
pub struct RandomIds(Mutex<fastrand::Rng>);

impl RandomIds {
    /// Tokens that differ in every process.
    pub fn new() -> Self {
        Self(Mutex::new(fastrand::Rng::new()))
    }

    /// The same tokens for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }
}

impl Default for RandomIds {
    fn default() -> Self {
        Self::new()
    }
}

impl Ids for RandomIds {
    fn token(&self) -> String {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::repeat_with(|| rng.digit(36))
            .take(TOKEN_LENGTH)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_names_and_repeat_with_their_seed() {
        let draw = |seed| {
            (0..20)
                .map(|_| RandomIds::seeded(seed).token())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let ids = RandomIds::new();
        assert_ne!(ids.token(), ids.token());
        assert!(
            ids.token()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        );
    }
}
