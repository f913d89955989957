//! Laws of calls, whatever happens in whatever order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    calling::{calling, tool},
    *,
};
use crate::api::ErrorInfo;

/// Plans follow each other until nothing is left to do; a call takes no more than these.
const MAX_ROUNDS: usize = 6;

#[derive(Clone, Debug)]
enum Act {
    Pass(u64),
    Begin,
    Answer(u8),
    /// The process ends before its next effect but so many, and another one takes over.
    Crash(usize),
    LoseSubscription,
    Serve(bool),
    Install(bool),
    Suspend(bool),
    Stop,
    Delete,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (0u64..40).prop_map(Act::Pass),
        2 => Just(Act::Begin),
        4 => (0u8..4).prop_map(Act::Answer),
        3 => (0usize..4).prop_map(Act::Crash),
        1 => Just(Act::LoseSubscription),
        1 => any::<bool>().prop_map(Act::Serve),
        1 => any::<bool>().prop_map(Act::Install),
        2 => any::<bool>().prop_map(Act::Suspend),
        1 => Just(Act::Stop),
        1 => Just(Act::Delete),
    ];
    proptest::collection::vec(act, 1..40)
}

/// What a process knows of a call, and what the results stream does.
#[derive(Clone, Debug, Default)]
struct Known {
    started: Option<Time>,
    answer: Option<(Time, Answer)>,
}

/// What a process remembers.
#[derive(Debug, Default)]
struct Ears {
    attempt: u32,
    listens: bool,
    /// It listens in vain.
    deaf: bool,
    refused: bool,
    given_up: bool,
    known: Known,
}

impl Ears {
    fn view(&self) -> CallView {
        let started = self.known.started;
        match self.known.answer.clone() {
            Some((at, answer)) => CallView::Answered {
                started,
                at,
                answer,
            },
            None if self.refused => CallView::NoResponders { since: at(0) },
            None if self.listens || self.given_up => CallView::Open {
                started,
                given_up: self.given_up,
            },
            None => CallView::Unsent,
        }
    }
}

struct World {
    te: TaskExecution,
    now: Time,
    process: u32,
    crash_in: Option<usize>,
    served: bool,
    installed: bool,
    ears: Ears,
    /// Who sent the call of each attempt.
    sent: BTreeMap<u32, u32>,
    stored: BTreeMap<u32, Known>,
}

impl World {
    fn new(spec: Value) -> World {
        World {
            te: calling(spec),
            now: at(0),
            process: 0,
            crash_in: None,
            served: true,
            installed: true,
            ears: Ears::default(),
            sent: BTreeMap::new(),
            stored: BTreeMap::new(),
        }
    }

    fn phase(&self) -> TaskPhase {
        let status = self.te.status.as_ref();
        status.map_or(TaskPhase::Pending, |status| status.phase)
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Pass(seconds) => {
                self.now = self.now.after(std::time::Duration::from_secs(*seconds));
            }
            Act::Begin => self.tool_says(|known, now| _ = known.started.get_or_insert(now)),
            Act::Answer(which) => self.tool_says(|known, now| {
                known.answer.get_or_insert((now, answer(*which)));
            }),
            Act::Crash(effects) => self.crash_in = Some(*effects),
            Act::LoseSubscription => self.ears.deaf = true,
            Act::Serve(served) => self.served = *served,
            Act::Install(installed) => self.installed = *installed,
            Act::Suspend(suspend) => self.te.spec.suspend = *suspend,
            Act::Stop => {
                self.te.spec.stop = Some(Stop {
                    code: "CANCELLED".to_owned(),
                    reason: "enough".to_owned(),
                });
            }
            Act::Delete => {
                self.te.metadata.deletion_timestamp = self.te.metadata.creation_timestamp.clone();
            }
        }
    }

    /// A tool that got the last call says something: it is stored, and heard by who listens.
    fn tool_says(&mut self, say: impl Fn(&mut Known, Time)) {
        let Some((attempt, _)) = self.sent.last_key_value() else {
            return;
        };
        if let Some(stored) = self.stored.get_mut(attempt) {
            say(stored, self.now);
            let hears = self.ears.listens && !self.ears.deaf;
            if hears && self.ears.attempt == *attempt {
                self.ears.known = stored.clone();
            }
        }
    }

    fn plan(&mut self) -> Plan {
        let attempt = current_attempt(&self.te);
        if self.ears.attempt != attempt {
            self.ears = Ears {
                attempt,
                ..Ears::default()
            };
        }
        let plan = self.plan_with(ToolView::Unasked);
        if plan.steps != [Step::FindTool] {
            return plan;
        }
        match self.installed {
            true => self.plan_with(ToolView::Found(&tool())),
            false => self.plan_with(ToolView::Missing),
        }
    }

    fn plan_with(&self, tool: ToolView) -> Plan {
        let me = self.process.to_string();
        plan_call(&self.te, tool, &me, &self.ears.view(), self.now)
    }

    fn crashes(&mut self) -> bool {
        self.crash_in = match self.crash_in {
            Some(0) => {
                self.process += 1;
                self.ears = Ears::default();
                self.crash_in = None;
                return true;
            }
            left => left.map(|left| left - 1),
        };
        false
    }

    /// Plans and applies until there is nothing to do.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let mut rounds = 0;
        loop {
            let plan = self.plan();
            if plan.steps.is_empty() {
                let late = plan.wake.is_some_and(|wake| wake <= self.now);
                prop_assert!(!late, "a wake in the past comes again at once, for ever");
                prop_assert_eq!(self.plan(), plan);
                return Ok(());
            }
            prop_assert!(rounds < MAX_ROUNDS, "not at rest: {:?}", plan);
            rounds += 1;
            for step in plan.steps {
                if self.crashes() {
                    rounds = 0;
                    break;
                }
                self.apply(step)?;
            }
        }
    }

    fn apply(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Record(status) => self.record(*status)?,
            Step::Call(attempt) => {
                let record = record_of(&self.te).expect("recorded before it is sent");
                prop_assert_eq!(record.attempt, attempt);
                prop_assert_eq!(&record.caller, &self.process.to_string());
                prop_assert_eq!(self.sent.insert(attempt, self.process), None, "sent twice");
                self.ears.listens = true;
                self.ears.refused = !self.served;
                if self.served {
                    self.stored.insert(attempt, Known::default());
                }
            }
            Step::Listen(attempt) => {
                self.ears.listens = true;
                self.ears.known = self.stored.get(&attempt).cloned().unwrap_or_default();
            }
            Step::ConfirmCall(attempt) => {
                self.ears.known = self.stored.get(&attempt).cloned().unwrap_or_default();
                self.ears.given_up = self.ears.known.answer.is_none();
            }
            _ => prop_assert!(false, "no task here has a pod: {:?}", step),
        }
        Ok(())
    }

    fn record(&mut self, status: TaskExecutionStatus) -> Result<(), TestCaseError> {
        prop_assert!(!self.phase().is_final(), "a final phase is never left");
        let seqs = status.transitions.iter().map(|seen| seen.seq);
        prop_assert!(seqs.eq(2..2 + status.transitions.len() as u64));
        prop_assert!(status.transitions.is_sorted_by_key(|seen| seen.at));
        prop_assert!(status.attempt <= current_attempt(&self.te));
        self.te.status = Some(status);
        let status = self.te.status.as_ref().unwrap();
        for attempt in 1..=status.attempt {
            let of_it = status.transitions.iter();
            let of_it = of_it.filter(|seen| seen.attempt == attempt);
            check_history(&of_it.map(|seen| seen.event).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

fn answer(which: u8) -> Answer {
    match which {
        0 => Answer::Success(json!({"n": 1})),
        1 => Answer::Success(json!(1)),
        2 => Answer::ToolError(ErrorInfo {
            message: "no".to_owned(),
            code: "NO".to_owned(),
            details: None,
        }),
        _ => Answer::Unreadable("no JSON".to_owned()),
    }
}

/// An attempt is `started` once; the tool's events are within it, and those of its end are one.
fn check_history(events: &[TaskEvent]) -> Result<(), TestCaseError> {
    use TaskEvent::{
        Cancelled, Completed, Failed, RetryScheduled, Started, ToolCompleted, ToolFailed,
        ToolStarted,
    };
    let events: Vec<_> = events
        .iter()
        .copied()
        .filter(|it| *it != RetryScheduled)
        .collect();
    let allowed = match events.as_slice() {
        [] | [Started] | [Started, ToolStarted] => true,
        // The wish to end it came between two attempts, or together with a failure.
        [Cancelled | Failed] => true,
        [rest @ .., Failed, Cancelled] | [rest @ .., Completed | Failed | Cancelled] => matches!(
            rest,
            [Started, ToolStarted, ToolCompleted | ToolFailed] | [Started, ToolFailed]
        ),
        _ => false,
    };
    prop_assert!(allowed, "{:?}", events);
    Ok(())
}

fn limits() -> impl Strategy<Value = Value> {
    let deadline = proptest::option::of(1u64..300);
    (1u32..4, deadline, proptest::option::of(1u64..100)).prop_map(|(tries, deadline, timeout)| {
        json!({
            "retry": {"maxAttempts": tries, "backoff": {"initial": "5s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
            "deadline": deadline.map(|it| format!("{it}s")),
            "timeout": timeout.map(|it| format!("{it}s")),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// A call is sent at most once, by the process that recorded it; every plan settles; a final
    /// phase is never left; and once nothing is in the way any more the execution ends.
    #[test]
    fn a_call_keeps_its_laws_whatever_happens(spec in limits(), acts in acts()) {
        let mut world = World::new(spec);
        world.settle()?;
        for act in &acts {
            world.act(act);
            world.settle()?;
        }
        world.act(&Act::Suspend(false));
        world.act(&Act::Install(true));
        for _ in 0..12 {
            world.settle()?;
            world.act(&Act::Pass(61));
        }
        prop_assert!(world.phase().is_final(), "{:?}", world.te.status);
    }

    /// Whatever a tool sends is read as something.
    #[test]
    fn every_message_is_read(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        hear(&payload, "u");
    }

    /// Whatever the status holds and whatever is known of the call: the plan is one step or none.
    #[test]
    fn of_every_status_and_view_there_is_one_next_step(
        phase in prop_oneof![Just("Pending"), Just("Running"), Just("Retrying"), Just("Failed")],
        attempt in 0u32..3,
        call in proptest::option::of((1u32..3, prop_oneof![Just("0"), Just("1")], 0u64..100)),
        failures in 0u32..2,
        view in 0usize..6,
        stop in any::<bool>(),
        now in 0u64..200,
    ) {
        let mut te = calling(json!({"deadline": "150s"}));
        let call = call.map(|(attempt, caller, deadline)| json!({
            "attempt": attempt, "toolExecId": "u", "caller": caller, "deadline": at(deadline),
        }));
        let status = json!({
            "phase": phase, "attempt": attempt, "call": call,
            "failures": {"application": failures, "infrastructure": 0},
        });
        te.status = Some(serde_json::from_value(status).unwrap());
        if stop {
            te.spec.stop = Some(Stop { code: "CANCELLED".to_owned(), reason: "enough".to_owned() });
        }
        let open = |given_up| CallView::Open { started: Some(at(1)), given_up };
        let views = [
            CallView::NoBus, CallView::Unsent, open(false), open(true), CallView::NoResponders { since: at(0) },
            CallView::Answered { started: None, at: at(2), answer: answer(0) },
        ];
        let planned = plan_call(&te, ToolView::Found(&tool()), "1", &views[view], at(now));
        prop_assert!(planned.steps.len() <= 1, "{:?}", planned);
        let sends = planned.steps.iter().any(|step| matches!(step, Step::Call(_)));
        let may = record_of(&te).is_some_and(|call| call.caller == "1") && view == 1;
        prop_assert!(!sends || may);
        if phase == "Failed" {
            prop_assert_eq!(planned, Plan::default());
        }
    }
}
