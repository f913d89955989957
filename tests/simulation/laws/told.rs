//! What the stream holds is what happened: after it was recorded, in order, and whole in the end. The events of a tool's
//! call are judged as those of its task execution: they stand among its own.

use compozy::{
    api::{TaskTransition, ToolCall},
    ports::Message,
};

use super::{Laws, Seen, text};
use crate::bus::header;

/// So often the stream is looked at, if nothing else shows that it lost messages.
const UNKNOWN: u64 = 35_000;

/// What the operator saw in the stream so long ago it takes to be there: JetStream compares the end of one filter only.
const FRESH: u64 = 260;

impl Laws {
    /// A deleted object was let go although NATS did not have its events.
    pub fn let_go(&mut self) {
        self.let_go = true;
    }

    /// The stream lost messages by a failure and holds these.
    pub fn stream_lost(&mut self, left: &[(String, u64)], now: u64) {
        let newest = |uid: &String| {
            left.iter()
                .filter(|(of, _)| of == uid)
                .map(|(_, seq)| *seq)
                .max()
        };
        self.told
            .retain(|(uid, seq)| newest(uid).is_some_and(|newest| *seq <= newest));
        self.lost_at = Some(now);
    }

    /// The stream's limits took messages, and it holds these.
    pub fn stream_retired(&mut self, left: &[(String, u64)]) {
        self.retired = true;
        let of_told = self.told.iter().map(|(uid, _)| uid);
        let gone = of_told
            .filter(|uid| !left.iter().any(|(of, _)| of == *uid))
            .cloned();
        self.forgotten.extend(gone.collect::<Vec<_>>());
    }

    /// A message was stored.
    pub fn stored(&mut self, message: &Message, now: u64) {
        let Some((uid, seq)) = place(message) else {
            return self.break_with("messages say their place", message.subject.clone());
        };
        let event = event(&message.subject);
        let (history, held_from) = match (self.executions.get(&uid), self.runs.get(&uid)) {
            (Some(seen), _) => (&seen.history, seen.held_from),
            (_, Some(run)) => (&run.history, run.held_from),
            _ => return self.break_with("told after it was recorded", format!("{uid}:{seq}")),
        };
        if history.get(&seq) != Some(&event) {
            let what = format!("at {now} {uid}:{seq} {event}, recorded: {history:?}");
            return self.break_with("told after it was recorded", what);
        }
        let last = self.told_up_to(&uid);
        // What the object no longer holds cannot be told again.
        let fits = match self.lost_at {
            _ if self.forgotten.contains(&uid) => true,
            // Nor is it what the limits took, before the end of what was left got lost.
            Some(_) if self.retired => seq > last,
            Some(lost) if now < lost + FRESH => seq > last,
            Some(_) => seq > last && seq <= held_from.max(last + 1),
            None => seq == last + 1,
        };
        if !fits {
            let what = format!("at {now} {uid}:{seq} {event} after {last}");
            self.break_with("told once and in order", what);
        }
        self.told.push((uid, seq));
    }

    /// Up to which place in its history the stream has, or had, an object's events.
    pub(super) fn told_up_to(&self, uid: &str) -> u64 {
        let told = self.told.iter().filter(|(of, _)| of == uid);
        told.map(|(_, seq)| *seq).max().unwrap_or(0)
    }

    /// The world is at rest: everything is told, in order.
    pub fn at_the_end(&mut self) {
        let mut wrong = Vec::new();
        let objects = self
            .executions
            .iter()
            .map(|(uid, seen)| (uid, &seen.history, &seen.seen))
            .chain(
                self.runs
                    .iter()
                    .map(|(uid, run)| (uid, &run.history, &run.seen)),
            );
        for (uid, history, seen) in objects {
            let spared = seen.stripped
                || seen.gone && self.let_go
                || self
                    .lost_at
                    .is_some_and(|lost| self.retired || seen.held_at < lost + unknown(seen));
            let newest = history.keys().next_back().copied().unwrap_or(0);
            let told = self.told_up_to(uid);
            if told != newest && !spared {
                wrong.push(format!("{uid}: told up to {told} of {newest}: {history:?}"));
            }
        }
        for wrong in wrong {
            self.break_with("everything is told", wrong);
        }
        if self.lost_at.is_none() && !self.retired {
            self.runs_frame_their_tasks();
        }
    }

    /// `started` comes before a run's tasks, `completed` and `failed` after them.
    fn runs_frame_their_tasks(&mut self) {
        let mut wrong = Vec::new();
        for (uid, run) in self.runs.iter().filter(|(_, run)| !run.seen.stripped) {
            let place_of = |seq: u64| {
                self.told
                    .iter()
                    .position(|told| *told == (uid.clone(), seq))
            };
            let tasks = self.told.iter().enumerate().filter(|(_, (of, _))| {
                let seen = self.executions.get(of);
                seen.is_some_and(|seen| seen.run == *uid && !seen.seen.stripped && !seen.late)
            });
            let places: Vec<usize> = tasks.map(|(place, _)| place).collect();
            let (Some(first), Some(last)) = (places.first(), places.last()) else {
                continue;
            };
            let start = place_of(1);
            if start.is_some_and(|start| start > *first) {
                wrong.push(format!("{uid}: started after its tasks"));
            }
            let by_its_tasks = |event: &String| matches!(event.as_str(), "completed" | "failed");
            let end = run.history.iter().find(|(_, event)| by_its_tasks(event));
            if let Some(end) = end.and_then(|(seq, _)| place_of(*seq))
                && end < *last
                && !self.let_go
            {
                wrong.push(format!("{uid}: ended before its tasks"));
            }
        }
        for wrong in wrong {
            self.break_with("a run frames its tasks", wrong);
        }
    }
}

/// What a subject says to have happened, as the histories say it.
fn event(subject: &str) -> String {
    let mut tokens = subject.rsplit('.');
    let event = tokens.next().unwrap_or_default();
    let instance = tokens.next().unwrap_or_default();
    match tokens.nth(1) {
        Some("tool") => format!("tool_{event} of {instance}"),
        _ => event.to_owned(),
    }
}

/// What a task execution's history says to have happened: of a tool, with the call that it was.
pub fn told_as(transition: &TaskTransition) -> String {
    let event = text(&transition.event);
    match ToolCall::id_in(transition.data.as_ref()) {
        Some(call) => format!("{event} of {call}"),
        None => event,
    }
}

/// For how long a loss may not be known by which an object is lost that is gone.
fn unknown(seen: &Seen) -> u64 {
    match seen.gone {
        true => UNKNOWN,
        false => 0,
    }
}

/// Of which object a message is, and its place in that object's history.
pub fn place(message: &Message) -> Option<(String, u64)> {
    let seq = header(message, "ce-sequence")?.parse().ok()?;
    let (uid, _) = message.id.rsplit_once(':')?;
    Some((uid.to_owned(), seq))
}
