//! What happened, line by line, and a fingerprint of all of it.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Everything that happened in a world.
#[derive(Default)]
pub struct Trace {
    lines: Vec<String>,
}

impl Trace {
    /// Writes a line; `at` is the virtual time in milliseconds.
    pub fn say(&mut self, at: u64, who: &str, what: &str) {
        self.lines
            .push(format!("{:>6}.{:03} {who:<5} {what}", at / 1000, at % 1000));
    }

    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }

    /// The same for the same trace, in every process.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(&self.lines)
    }
}

/// The same for the same value, in every process.
pub fn fingerprint(value: &impl Hash) -> u64 {
    // `new` has fixed keys, unlike the hasher of a `HashMap`.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
