//! Pools: each attempt begins once, when the one before is over, and what is recorded of it is what its worker said.

use std::collections::BTreeMap;

use compozy::{
    api::{AttemptRecord, FailureClass, TaskExecution, TaskPhase},
    ports::Place,
    protocol::pool::{TaskNews, TaskReport},
};

use super::Laws;

/// What a worker said in time is known to whoever hears of pools after so long at most.
const KNOWN_AFTER: u64 = 15_000;

/// What was seen of an attempt.
#[derive(Default)]
struct AttemptSeen {
    /// A worker has it, or had it.
    taken: bool,
    /// Its worker was asked to end it.
    asked: bool,
    begun: bool,
    /// In the order in which they were stored.
    ends: Vec<End>,
    /// NATS said that its delivery was lost.
    lost: bool,
    recorded: bool,
}

/// How an attempt ended, as a worker said.
struct End {
    news: TaskNews,
    /// It was stored while nobody could think that its worker was lost.
    in_time: bool,
    at: u64,
}

/// What was seen of all of them.
#[derive(Default)]
pub(super) struct PoolsSeen {
    /// By UID and number.
    attempts: BTreeMap<(String, u32), AttemptSeen>,
    /// NATS lost what it had.
    lost: bool,
    /// Since when somebody hears of pools.
    heard: Option<u64>,
}

impl Laws {
    /// The leader sends a command.
    pub fn sends(&mut self, at: &Place) {
        let Some(seen) = self.executions.get(&at.task_exec_id) else {
            return;
        };
        let over = seen.phase.is_final() || at.attempt != seen.failures + 1;
        if seen.suspended {
            self.break_with("a suspended run stands still", format!("{at} is sent"));
        } else if over && !seen.seen.gone {
            let what = format!("{at}: {:?} after {} failures", seen.phase, seen.failures);
            self.break_with("what is sent is the attempt that is next", what);
        }
    }

    /// A command is delivered to a worker.
    pub fn taken(&mut self, at: &Place) {
        self.of_attempt(at).taken = true;
    }

    /// The worker of an attempt is asked to end it, be that heard or not.
    pub fn asked_to_end(&mut self, at: &Place) {
        self.of_attempt(at).asked = true;
    }

    fn of_attempt(&mut self, at: &Place) -> &mut AttemptSeen {
        let key = (at.task_exec_id.clone(), at.attempt);
        self.pools.attempts.entry(key).or_default()
    }

    /// A worker begins an attempt, while perhaps another one is worked on. What stood still may do so late.
    pub fn begins(&mut self, at: &Place, beside: Option<&Place>, stood_still: bool) {
        let again = std::mem::replace(&mut self.of_attempt(at).begun, true);
        if self.pools.lost {
            return;
        }
        if again {
            self.break_with("an attempt begins once", at.to_string());
        }
        let Some(seen) = self.executions.get(&at.task_exec_id) else {
            return self.break_with("what begins is a task execution's", at.to_string());
        };
        let (phase, failures, taken) = (seen.phase, seen.failures, seen.seen.stripped);
        if at.attempt > failures + 1 {
            let what = format!("{at} after {failures} recorded failures");
            self.break_with("attempts follow recorded failures", what);
        }
        let excused = stood_still || taken || self.limits_may_come_early();
        if excused {
            return;
        }
        if phase.is_final() || at.attempt <= failures {
            let what = format!("{at}: {phase:?}, {failures} failures");
            self.break_with("what is over does not begin", what);
        }
        if let Some(other) = beside {
            let what = format!("{at} begins beside {other}");
            self.break_with("one attempt at a time", what);
        }
    }

    /// A report was stored; in time if its worker has the command still.
    pub fn reported(&mut self, report: &TaskReport, in_time: bool, now: u64) {
        if report.news != TaskNews::Started {
            let key = (report.task_exec_id.clone(), report.attempt);
            let attempt = self.pools.attempts.entry(key).or_default();
            attempt.ends.push(End {
                news: report.news.clone(),
                in_time,
                at: now,
            });
        }
    }

    /// NATS says that a delivery was lost.
    pub fn delivery_lost(&mut self, at: &Place) {
        self.of_attempt(at).lost = true;
    }

    /// Whether somebody took a task execution away by force.
    pub fn is_taken(&self, uid: &str) -> bool {
        let seen = self.executions.get(uid);
        seen.is_some_and(|seen| seen.seen.stripped)
    }

    /// NATS lost what it had of pools.
    pub fn pools_lost(&mut self) {
        self.pools.lost = true;
    }

    /// From now on somebody hears of pools, from what is not recorded on; or nobody does.
    pub fn pools_heard(&mut self, since: Option<u64>) {
        self.pools.heard = since;
    }

    /// Whoever hears of pools stood still until then.
    pub fn pools_heard_again(&mut self, now: u64) {
        self.pools.heard = self.pools.heard.map(|since| since.max(now));
    }

    /// What is recorded of a pool's task.
    pub(super) fn pool_recorded(&mut self, uid: &str, execution: &TaskExecution, now: u64) {
        let Some(status) = execution.status.as_ref() else {
            return;
        };
        if execution.spec.pool.is_none() {
            return;
        }
        for record in &status.attempts {
            let key = (uid.to_owned(), record.number);
            let attempt = self.pools.attempts.entry(key).or_default();
            if std::mem::replace(&mut attempt.recorded, true) {
                continue;
            }
            let (untrue, forgotten) = (attempt.untrue(record), attempt.forgotten(record));
            let ends: Vec<_> = attempt.ends.iter().map(|end| &end.news).collect();
            let what = format!("{uid}:{} {record:?}, said: {ends:?}", record.number);
            let by_wish = record.class.is_none();
            let excused = by_wish && !self.is_known(uid, record.number, now);
            if untrue && !self.pools.lost {
                self.break_with("an attempt's record is true", what);
            } else if forgotten && !excused && !self.pools.lost {
                self.break_with("no end is forgotten", what);
            }
        }
        if status.phase.is_final() {
            self.pool_ended(uid, execution, now);
        }
    }

    /// A pool's task execution has ended.
    fn pool_ended(&mut self, uid: &str, execution: &TaskExecution, now: u64) {
        let status = execution.status.clone().unwrap_or_default();
        let last = self.pools.attempts.get(&(uid.to_owned(), status.attempt));
        let gives = |end: &End| match &end.news {
            TaskNews::Succeeded { outputs } => Some(outputs) == status.outputs.as_ref(),
            _ => false,
        };
        let given = last.is_some_and(|last| last.ends.iter().any(gives));
        if status.phase == TaskPhase::Succeeded && !given {
            let what = format!("{uid}: {:?}", status.outputs);
            self.break_with("a task gives what its worker gave", what);
        }
        if self.pools.lost {
            return;
        }
        let unasked = self.an_attempt(uid, |_, seen| seen.is_left_alone());
        if let Some(what) = unasked {
            self.break_with("who has what is not wanted is asked to end it", what);
        }
        let forgotten = self.an_attempt(uid, |number, seen| {
            let ended = seen.first().is_some_and(End::is_the_handlers);
            ended && !seen.recorded && self.is_known(uid, number, now)
        });
        if let Some(what) = forgotten {
            self.break_with("no end is forgotten", format!("{what} is not recorded"));
        }
    }

    /// An attempt of a task execution of which something is true, if there is one.
    fn an_attempt(&self, uid: &str, is: impl Fn(u32, &AttemptSeen) -> bool) -> Option<String> {
        let all = (uid.to_owned(), 0)..=(uid.to_owned(), u32::MAX);
        let mut attempts = self.pools.attempts.range(all);
        let found = attempts.find(|((_, number), seen)| is(*number, seen));
        found.map(|((uid, number), _)| format!("{uid}:{number}"))
    }

    /// Whether whoever hears of pools knows by now how an attempt ended, if that was said in time.
    fn is_known(&self, uid: &str, number: u32, now: u64) -> bool {
        let attempt = self.pools.attempts.get(&(uid.to_owned(), number));
        let said = attempt.and_then(AttemptSeen::first).map(|end| end.at);
        let known = self.pools.heard.zip(said);
        known.is_some_and(|(heard, said)| heard.max(said) + KNOWN_AFTER < now)
            && !self.limits_may_come_early()
    }
}

impl AttemptSeen {
    /// What counts, if it was said in time.
    fn first(&self) -> Option<&End> {
        self.ends.first().filter(|end| end.in_time)
    }

    /// Whether a worker has it, as far as anybody can know, and was not told to end it.
    fn is_left_alone(&self) -> bool {
        self.taken && !self.asked && !self.lost && self.ends.is_empty()
    }

    /// Whether nobody ever said so.
    fn untrue(&self, record: &AttemptRecord) -> bool {
        match record.class {
            Some(FailureClass::Infrastructure) => {
                let left = |end: &End| matches!(end.news, TaskNews::HandedBack | TaskNews::Stopped);
                // Who was asked to end it and says nothing counts as lost too.
                !self.lost && !self.asked && !self.ends.iter().any(left)
            }
            // It was ended by a wish.
            None if record.reason != "Completed" => false,
            _ => !self.ends.iter().any(|end| end.is(record)),
        }
    }

    /// Whether something else counts.
    fn forgotten(&self, record: &AttemptRecord) -> bool {
        let first = self.first().filter(|end| end.is_the_handlers());
        first.is_some_and(|end| !end.is(record))
    }
}

impl End {
    /// Whether the handler itself came to an end.
    fn is_the_handlers(&self) -> bool {
        matches!(
            self.news,
            TaskNews::Succeeded { .. } | TaskNews::Failed { .. }
        )
    }

    /// Whether that is what is recorded.
    fn is(&self, record: &AttemptRecord) -> bool {
        let by_the_task = record.class == Some(FailureClass::Application);
        match &self.news {
            TaskNews::Succeeded { outputs } if outputs.is_object() => record.reason == "Completed",
            TaskNews::Succeeded { .. } => by_the_task,
            TaskNews::Failed { error } => by_the_task && record.reason == error.code,
            _ => false,
        }
    }
}
