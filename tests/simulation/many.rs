//! Many worlds, side by side, and what became of them.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    faults::Class,
    seed::{self, Outcome},
};

/// So many broken worlds are enough to look at.
const ENOUGH: usize = 20;

/// What came of many worlds.
#[derive(Default)]
pub struct Many {
    pub worlds: usize,
    pub broken: BTreeMap<u64, Vec<String>>,
    pub fired: BTreeMap<Class, u64>,
    lasted: Duration,
    effects: u64,
    took: Duration,
}

/// Runs the worlds of these seeds on all processors.
pub fn run(seeds: &[u64]) -> Many {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let many = Mutex::new(Many::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = catch_unwind(AssertUnwindSafe(|| seed::run(*seed)));
                    let mut many = many.lock().unwrap();
                    match outcome {
                        Ok(outcome) => many.add(&outcome),
                        Err(panic) => {
                            let said = panic.downcast_ref::<String>().cloned();
                            let what = said.unwrap_or_else(|| "a panic".to_owned());
                            many.broken.insert(*seed, vec![what]);
                        }
                    }
                    if many.broken.len() >= ENOUGH {
                        break;
                    }
                }
            });
        }
    });
    let mut many = many.into_inner().unwrap();
    many.took = began.elapsed();
    many
}

impl Many {
    fn add(&mut self, outcome: &Outcome) {
        self.worlds += 1;
        self.lasted += Duration::from_millis(outcome.lasted);
        self.effects += outcome.effects;
        for (class, count) in &outcome.fired {
            *self.fired.entry(*class).or_default() += count;
        }
        if !outcome.broken.is_empty() {
            self.broken.insert(outcome.seed, outcome.broken.clone());
            let path = keep(outcome);
            eprintln!("{}", describe(outcome, &path));
        }
    }

    /// How often each class of faults fired, and what it was all about.
    pub fn table(&self) -> String {
        let hours = self.lasted.as_secs_f64() / 3600.0;
        let mut lines = vec![format!(
            "{} worlds in {:.1} s: {hours:.0} virtual hours, {} writes of the operator, {} broken",
            self.worlds,
            self.took.as_secs_f64(),
            self.effects,
            self.broken.len()
        )];
        for class in Class::ALL {
            let count = self.fired.get(class).unwrap_or(&0);
            lines.push(format!("{count:>9}  {}", class.meaning()));
        }
        lines.join("\n")
    }

    /// Classes that never fired.
    pub fn unfired(&self) -> Vec<Class> {
        let fired = |class: &&Class| !self.fired.contains_key(class);
        Class::ALL.iter().filter(fired).copied().collect()
    }
}

/// Writes the whole trace to a file.
fn keep(outcome: &Outcome) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sim-{}.trace", outcome.seed));
    let _ = std::fs::write(&path, outcome.trace.join("\n"));
    path
}

/// What is broken, how to see it again, and what happened last.
pub fn describe(outcome: &Outcome, path: &Path) -> String {
    let lines = &outcome.trace;
    let last = lines[lines.len().saturating_sub(40)..].join("\n");
    format!(
        "seed {} breaks a law:\n  {}\n{last}\nthe whole trace is in {}; again: make sim SEED={}\n",
        outcome.seed,
        outcome.broken.join("\n  "),
        path.display(),
        outcome.seed
    )
}
