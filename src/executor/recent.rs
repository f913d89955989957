//! The calls of late: one that comes again is not run again.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

const KEPT_ANSWERS: usize = 1024;
const KEPT_BYTES: usize = 16 << 20;

/// Calls that run, and the answers to the last ones that ran.
#[derive(Debug, Default)]
pub(super) struct Recent {
    calls: HashMap<String, Call>,
    /// Those with an answer, the oldest first.
    answered: VecDeque<String>,
    bytes: usize,
}

/// How far a call is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// Nobody heard of it before.
    New,
    /// It runs.
    Running,
    /// It ended with this answer.
    Answered(Bytes),
}

impl Recent {
    /// Says what is known of a call; a new one runs from now on.
    pub(super) fn begin(&mut self, id: &str) -> Call {
        let known = self.calls.get(id).cloned();
        known.unwrap_or_else(|| {
            self.calls.insert(id.to_owned(), Call::Running);
            Call::New
        })
    }

    /// A call has ended: with an answer, or so that nothing is known of it any more.
    pub(super) fn end(&mut self, id: &str, answer: Option<Bytes>) {
        let Some(answer) = answer else {
            self.calls.remove(id);
            return;
        };
        self.bytes += answer.len();
        self.calls.insert(id.to_owned(), Call::Answered(answer));
        self.answered.push_back(id.to_owned());
        while self.answered.len() > KEPT_ANSWERS || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.answered.pop_front() else {
                return;
            };
            if let Some(Call::Answered(answer)) = self.calls.remove(&oldest) {
                self.bytes -= answer.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_runs_once_and_keeps_its_answer() {
        let mut recent = Recent::default();
        let answer = Bytes::from_static(b"{}");
        assert_eq!(recent.begin("a"), Call::New);
        assert_eq!(recent.begin("a"), Call::Running);
        recent.end("a", Some(answer.clone()));
        assert_eq!(recent.begin("a"), Call::Answered(answer));
        assert_eq!(recent.begin("b"), Call::New);
        recent.end("b", None);
        assert_eq!(recent.begin("b"), Call::New);
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_size() {
        let mut recent = Recent::default();
        let mut run = |id: String, size: usize| {
            recent.begin(&id);
            recent.end(&id, Some(Bytes::from(vec![0; size])));
            (recent.answered.len(), recent.calls.len(), recent.bytes)
        };
        for id in 0..2 * KEPT_ANSWERS {
            run(format!("small-{id}"), 10);
        }
        assert_eq!(
            run("next".into(), 10),
            (KEPT_ANSWERS, KEPT_ANSWERS, 10 * KEPT_ANSWERS)
        );
        for id in 0..100 {
            run(format!("large-{id}"), KEPT_BYTES / 10);
        }
        // Ten of them, and what is small beside them.
        assert_eq!(run("last".into(), 1).0, 11);
    }
}
