//! What always holds: checked at every write, every message and every request, and once more at
//! the end. The laws look at what is stored and told, never at what the operator thinks.

mod calls;
mod control;
mod pools;
mod records;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use compozy::api::{
    CallRecord, FINALIZER_EVENTS, LABEL_ATTEMPT, OnFailure, Task, TaskExecution, TaskPhase, Time,
    Workflow,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use told::place;

use crate::{
    api_server::{Change, Kind},
    corpus::kubelet::status,
};

/// So long an operator may not know that somebody took its lease.
const LEASE_DURATION: u64 = 15_000;

/// What was seen of a run.
#[derive(Default)]
struct RunSeen {
    tasks: Vec<Task>,
    parallelism: usize,
    history: BTreeMap<u64, String>,
    /// The first change of state that its status still has.
    held_from: u64,
    phase: String,
    seen: Seen,
}

impl RunSeen {
    /// How the outputs of items that a task execution is given differ from what the items gave.
    fn items_in_disorder<'a>(
        &self,
        execution: &TaskExecution,
        siblings: impl Iterator<Item = &'a ExecutionSeen>,
    ) -> Option<String> {
        let given = execution.spec.inputs.as_ref()?["n"].as_array()?;
        let task = self
            .tasks
            .iter()
            .find(|task| task.name == execution.spec.task)?;
        let need = task.depends_on.first()?;
        let of_need: BTreeMap<_, _> = siblings
            .filter(|other| other.task == *need)
            .map(|other| (other.index, other))
            .collect();
        if of_need.values().any(|other| other.seen.stripped) {
            return None;
        }
        let gave = of_need.values().map(|other| match other.phase {
            TaskPhase::Succeeded => other.outputs.clone().unwrap_or_else(|| json!({})),
            _ => Value::Null,
        });
        let gave: Vec<_> = gave.collect();
        (*given != gave).then(|| format!("{} is given {given:?}, {need} gave {gave:?}", task.name))
    }

    /// A task of a run that succeeded of which not every item ran.
    fn item_left_out<'a>(
        &self,
        executions: impl Iterator<Item = &'a ExecutionSeen> + Clone,
    ) -> Option<String> {
        self.tasks.iter().find_map(|task| {
            let items = task.for_each.as_ref()?.items.as_array()?.len();
            let ran = executions.clone().filter(|seen| seen.task == task.name);
            let ran = ran.map(|seen| seen.index).collect::<BTreeSet<_>>().len();
            (ran != items).then(|| format!("{ran} items of {} ran, it has {items}", task.name))
        })
    }
}

/// What was seen of a task execution.
#[derive(Default)]
struct ExecutionSeen {
    run: String,
    task: String,
    index: Option<u32>,
    outputs: Option<Value>,
    history: BTreeMap<u64, String>,
    /// The first change of state that its status still has.
    held_from: u64,
    phase: TaskPhase,
    failures: u32,
    suspended: bool,
    /// The last call of a tool.
    call: Option<CallRecord>,
    seen: Seen,
    /// It came when its run was over or gone.
    late: bool,
}

/// What was seen of any object with events.
#[derive(Default)]
struct Seen {
    held: bool,
    gone: bool,
    /// Somebody took it, or a pod of it, away by force: nobody can know what becomes of it.
    stripped: bool,
    /// When it was last held.
    held_at: u64,
}

/// What was seen of a pod.
struct PodSeen {
    name: String,
    execution: String,
    attempt: u32,
    runs: bool,
    exit_code: Option<i32>,
}

/// The laws, and what they have to remember.
#[derive(Default)]
pub struct Laws {
    pub broken: Vec<String>,
    runs: BTreeMap<String, RunSeen>,
    executions: BTreeMap<String, ExecutionSeen>,
    pods: BTreeMap<String, PodSeen>,
    calls: calls::CallsSeen,
    pools: pools::PoolsSeen,
    /// What the stream holds or held, in its order: UID and place in the object's history.
    told: Vec<(String, u64)>,
    /// When the stream last lost messages.
    lost_at: Option<u64>,
    /// Objects of which the stream has nothing any more: what of them is told again is no repetition.
    forgotten: BTreeSet<String>,
    /// The stream's limits took messages.
    retired: bool,
    /// When somebody did with the lease what no operator does.
    lease_tampered: Option<u64>,
    /// Deleted objects were let go although NATS did not have their events.
    let_go: bool,
    /// When a process last asked for the lease, and when it last asked for what it got.
    leases: BTreeMap<String, (Instant, Option<Instant>)>,
    /// Names of the task executions whose creation was sent.
    scheduled: BTreeSet<String>,
    /// The creation that arrives was sent when its attempt had had no pod.
    sent_in_time: bool,
}

impl Laws {
    fn break_with(&mut self, law: &str, what: String) {
        self.broken.push(format!("{law}: {what}"));
    }

    /// A write.
    pub fn observe(&mut self, change: &Change, now: u64) {
        match change.key.kind {
            Kind::Workflow => self.workflow(change, now),
            Kind::TaskExecution => self.execution(change, now),
            Kind::Pod => self.pod(change, now),
            Kind::Lease => self.renewed(change),
            _ => {}
        }
    }

    fn workflow(&mut self, change: &Change, now: u64) {
        let Some(workflow) = parsed::<Workflow>(change.after.as_deref()) else {
            if let Some(before) = parsed::<Workflow>(change.before.as_deref())
                && let Some(run) = self.runs.get_mut(&before.uid().unwrap_or_default())
            {
                run.seen.end(now);
            }
            return;
        };
        let uid = workflow.uid().unwrap_or_default();
        let run = self.runs.entry(uid.clone()).or_default();
        run.tasks.clone_from(&workflow.spec.tasks);
        run.parallelism = workflow.spec.parallelism.unwrap_or(50) as usize;
        run.seen.look(workflow.finalizers(), now);
        let Some(status) = &workflow.status else {
            return;
        };
        let phase = format!("{:?}", status.phase);
        let was_final = is_final(&run.phase);
        let before = std::mem::replace(&mut run.phase, phase.clone());
        let transitions: Vec<_> = status
            .transitions
            .iter()
            .map(|seen| (seen.seq, text(&seen.event), seen.at))
            .collect();
        run.held_from = transitions.first().map_or(0, |(seq, ..)| *seq);
        let wrong = extend(&mut run.history, &transitions, 1);
        let executions = self.executions.values().filter(|seen| seen.run == uid);
        let left_out = (phase == "Succeeded")
            .then(|| run.item_left_out(executions))
            .flatten();
        if let Some(what) = left_out {
            self.break_with("every item runs", format!("{uid}: {what}"));
        }
        if was_final && before != phase {
            self.break_with("final is final", format!("{uid}: {before} -> {phase}"));
        }
        if let Some(wrong) = wrong {
            self.break_with("transitions are a history", format!("{uid}: {wrong}"));
        }
    }

    fn execution(&mut self, change: &Change, now: u64) {
        let Some(execution) = parsed::<TaskExecution>(change.after.as_deref()) else {
            let before = parsed::<TaskExecution>(change.before.as_deref());
            let uid = before.and_then(|before| before.uid()).unwrap_or_default();
            if let Some(seen) = self.executions.get_mut(&uid) {
                seen.seen.end(now);
                if seen.seen.held {
                    self.released(&uid);
                }
            }
            return;
        };
        let uid = execution.uid().unwrap_or_default();
        if !self.executions.contains_key(&uid) {
            self.scheduled(&execution);
        }
        let seen = self.executions.entry(uid.clone()).or_default();
        let held = std::mem::take(&mut seen.seen.held);
        seen.seen.look(execution.finalizers(), now);
        let let_go = held && !seen.seen.held;
        let status = execution.status.clone().unwrap_or_default();
        let before = std::mem::replace(&mut seen.phase, status.phase);
        seen.outputs.clone_from(&status.outputs);
        seen.call.clone_from(&status.call);
        seen.suspended = status.suspension.is_on();
        seen.failures = status.failures.application + status.failures.infrastructure;
        let transitions: Vec<_> = status
            .transitions
            .iter()
            .map(|seen| (seen.seq, told::told_as(seen), seen.at))
            .collect();
        seen.held_from = transitions.first().map_or(0, |(seq, ..)| *seq);
        let wrong = extend(&mut seen.history, &transitions, 2);
        let mut results = BTreeSet::new();
        let twice = status
            .transitions
            .iter()
            .filter(|seen| matches!(text(&seen.event).as_str(), "completed" | "failed"))
            .find(|seen| !results.insert(seen.attempt))
            .map(|seen| seen.attempt);
        if before.is_final() && before != status.phase {
            let what = format!("{uid}: {before:?} -> {:?}", status.phase);
            self.break_with("final is final", what);
        }
        if let Some(wrong) = wrong {
            self.break_with("transitions are a history", format!("{uid}: {wrong}"));
        }
        if let Some(attempt) = twice {
            let what = format!("{uid}: attempt {attempt} has two");
            self.break_with("one result for each attempt", what);
        }
        if let_go {
            self.released(&uid);
        }
        self.attempts(&uid, &execution);
        self.recorded(&uid, &execution);
        self.call_ended(&uid, &execution);
        self.pool_recorded(&uid, &execution, now);
    }

    /// What is recorded of attempts is what befell their pods, and within the budgets.
    fn attempts(&mut self, uid: &str, execution: &TaskExecution) {
        let status = execution.status.clone().unwrap_or_default();
        let spec = &execution.spec;
        let mut wrong = Vec::new();
        for record in &status.attempts {
            let pods = self.pods.values();
            // More than one, if the first was taken away by force.
            let mut ends = pods
                .filter(|pod| pod.execution == uid && pod.attempt == record.number)
                .map(|pod| pod.exit_code);
            let has_pod = spec.container.is_some();
            if record.reason == "Completed" && has_pod && !ends.clone().any(|end| end == Some(0)) {
                wrong.push(format!(
                    "attempt {} is said to have succeeded, its pod: {:?}",
                    record.number,
                    ends.next()
                ));
            }
        }
        let failures = status.failures;
        if failures.application > spec.retry.max_attempts
            || failures.infrastructure > spec.infrastructure_retries + 1
        {
            wrong.push(format!("more attempts than allowed: {failures:?}"));
        }
        for wrong in wrong {
            self.break_with("an attempt's record is true", format!("{uid}: {wrong}"));
        }
    }

    /// A task execution came to be.
    fn scheduled(&mut self, execution: &TaskExecution) {
        let uid = execution.uid().unwrap_or_default();
        let run_uid = &execution.spec.workflow.uid;
        let task = &execution.spec.task;
        let mut seen = ExecutionSeen {
            run: run_uid.clone(),
            task: task.clone(),
            index: execution.spec.index,
            history: BTreeMap::from([(1, "scheduled".to_owned())]),
            ..ExecutionSeen::default()
        };
        let mut wrong = Vec::new();
        if let Some(run) = self.runs.get(run_uid) {
            let siblings = || {
                self.executions
                    .values()
                    .filter(|other| other.run == *run_uid)
            };
            let spec = run.tasks.iter().find(|known| known.name == *task);
            for need in spec.into_iter().flat_map(|task| &task.depends_on) {
                let needed = run.tasks.iter().find(|task| task.name == *need);
                let tolerated =
                    needed.is_some_and(|task| task.on_failure == Some(OnFailure::Continue));
                let items = needed.is_some_and(|task| task.for_each.is_some());
                let well = |other: &ExecutionSeen| {
                    let good =
                        other.phase == TaskPhase::Succeeded || tolerated && other.phase.is_final();
                    good || other.seen.gone
                };
                let mut of_need = siblings().filter(|other| other.task == *need);
                let ended = match items {
                    true => of_need.all(well),
                    false => of_need.any(well),
                };
                if !ended {
                    wrong.push(format!("{task} starts before {need} has ended well"));
                }
            }
            let open = || {
                let open = |other: &&ExecutionSeen| !other.phase.is_final() && !other.seen.gone;
                siblings().filter(open)
            };
            let limit = spec.and_then(|task| task.for_each.as_ref()?.max_parallel);
            let beside = open().filter(|other| other.task == *task).count();
            if limit.is_some_and(|limit| beside >= limit as usize) {
                wrong.push(format!("{task} is one more than its own {limit:?} at once"));
            }
            if let Some(what) = run.items_in_disorder(execution, siblings()) {
                wrong.push(what);
            }
            let same =
                |other: &&ExecutionSeen| other.task == *task && other.index == execution.spec.index;
            // A creation may be under way for long, and come when its task execution was taken away by force.
            let taken = siblings().filter(same).any(|other| other.seen.stripped);
            let under_way = open().count();
            if under_way >= run.parallelism && !taken {
                wrong.push(format!(
                    "{task} is one more than {} at once",
                    run.parallelism
                ));
            }
            // What arrives late for a run that is gone goes with it, and for one that is over does not begin.
            let over = run.seen.gone || is_final(&run.phase);
            seen.late = over;
            let again = !over && siblings().filter(same).any(|other| !other.seen.stripped);
            if again {
                wrong.push(format!("{task} has a second task execution"));
            }
        }
        self.executions.insert(uid, seen);
        for wrong in wrong {
            self.break_with("tasks start in order", format!("{run_uid}: {wrong}"));
        }
    }

    fn pod(&mut self, change: &Change, now: u64) {
        let Some(pod) = parsed::<Pod>(change.after.as_deref()) else {
            if let Some(before) = parsed::<Pod>(change.before.as_deref())
                && let Some(seen) = self.pods.get_mut(&before.uid().unwrap_or_default())
            {
                seen.runs = false;
            }
            return;
        };
        let Some(execution) = owner(&pod) else { return };
        let attempt = attempt(&pod);
        let uid = pod.uid().unwrap_or_default();
        if !self.pods.contains_key(&uid) {
            self.dispatched(&pod.name_any(), &execution, attempt, now);
        }
        let runs =
            matches!(status::main_state(&pod), status::Main::Running(_)) && !status::is_over(&pod);
        let ran = self.pods.get(&uid).is_some_and(|seen| seen.runs);
        if runs && !ran {
            let other = self
                .pods
                .values()
                .find(|other| other.runs && other.execution == execution);
            if let Some(other) = other {
                let what = format!("{}: attempt {} runs still", pod.name_any(), other.attempt);
                self.break_with("one pod at a time", what);
            }
        }
        let seen = PodSeen {
            name: pod.name_any(),
            execution,
            attempt,
            runs,
            exit_code: exit_code(&pod),
        };
        self.pods.insert(uid, seen);
    }

    /// Whether the attempt of this pod, which is about to be created, has had none.
    pub fn is_its_first(&self, pod: &Value) -> bool {
        parsed::<Pod>(Some(pod)).is_some_and(|pod| {
            let (execution, attempt) = (owner(&pod), attempt(&pod));
            let mut others = self.pods.values();
            !others.any(|other| {
                Some(&other.execution) == execution.as_ref() && other.attempt == attempt
            })
        })
    }

    /// A creation arrives that was sent when its attempt had had no pod, or something else.
    pub fn arrives(&mut self, in_time: bool) {
        self.sent_in_time = in_time;
    }

    /// A pod came to be.
    fn dispatched(&mut self, name: &str, execution: &str, attempt: u32, now: u64) {
        let Some(seen) = self.executions.get(execution) else {
            return self.break_with("pods have an execution", name.to_owned());
        };
        let (failures, stripped) = (seen.failures, seen.seen.stripped);
        // That a run was taken away by force one may not know yet; that it has ended is known to who leads.
        let run = self.runs.get(&seen.run);
        let ended = run.is_some_and(|run| is_final(&run.phase) && !run.seen.gone);
        if seen.late && ended {
            let what = name.to_owned();
            self.break_with("what comes when its run is over does not begin", what);
        }
        if attempt > failures + 1 {
            let what = format!("{name}: attempt {attempt} after {failures} recorded failures");
            self.break_with("attempts follow recorded failures", what);
        }
        let of_attempt = |pod: &&PodSeen| pod.execution == execution && pod.attempt == attempt;
        let mut others = self.pods.values().filter(of_attempt);
        // One that comes late, when the first of its name has gone again, nobody can call back.
        let again = others.any(|other| !self.sent_in_time || other.name != name);
        if again && !stripped && !self.may_be_two(now) {
            let what = format!("{name}: attempt {attempt} has a second pod");
            self.break_with("one pod for each attempt", what);
        }
    }

    /// The operator asks for a pod's deletion.
    pub fn deletes(&mut self, pod: &Value, execution: Option<&Value>) {
        let Some(pod) = parsed::<Pod>(Some(pod)) else {
            return;
        };
        let Some(execution) = parsed::<TaskExecution>(execution) else {
            return;
        };
        let status = execution.status.clone().unwrap_or_default();
        let runs = matches!(status::main_state(&pod), status::Main::Running(_));
        let failures = status.failures.application + status.failures.infrastructure;
        // One that comes after its attempt was recorded is not wanted any more.
        let late = attempt(&pod) <= failures;
        let decided = status.phase.is_final() || status.stopping.is_some() || late;
        let asked = pod.metadata.deletion_timestamp.is_some();
        if runs && !decided && !asked && owner(&pod) == execution.uid() {
            let what = format!("{} runs, and no decision is recorded", pod.name_any());
            self.break_with("decided before it is deleted", what);
        }
    }

    /// Somebody did with the lease what no operator does.
    pub fn lease_tampered(&mut self, now: u64) {
        self.lease_tampered = Some(now);
    }

    /// Whether two may lead: somebody took the lease away from one that does not know it yet.
    fn may_be_two(&self, now: u64) -> bool {
        self.lease_tampered
            .is_some_and(|at| now < at + LEASE_DURATION)
    }

    /// The operator sends a write.
    pub fn writes(&mut self, identity: &str, leader: &str, line: &str, now: u64) {
        if identity != leader && !self.may_be_two(now) {
            let what = format!("at {now} {identity} sends {line}, the leader is {leader:?}");
            self.break_with("only the leader writes", what);
        }
    }

    /// An object was taken away by force.
    pub fn stripped(&mut self, uid: &str) {
        let of_pod = self.pods.get(uid).map(|pod| pod.execution.clone());
        let uid = of_pod.as_deref().unwrap_or(uid);
        if let Some(seen) = self.executions.get_mut(uid) {
            seen.seen.stripped = true;
        }
        if let Some(run) = self.runs.get_mut(uid) {
            run.seen.stripped = true;
        }
    }
}

impl Seen {
    fn end(&mut self, now: u64) {
        self.gone = true;
        self.held_at = self.held_at.min(now);
    }

    fn look(&mut self, finalizers: &[String], now: u64) {
        self.held = finalizers.iter().any(|name| name == FINALIZER_EVENTS);
        if self.held {
            self.held_at = u64::MAX;
        } else if self.held_at == u64::MAX {
            self.held_at = now;
        }
    }
}

/// Takes a status's transitions into what is known; says what does not fit.
fn extend(
    history: &mut BTreeMap<u64, String>,
    transitions: &[(u64, String, Time)],
    first: u64,
) -> Option<String> {
    let newest = history.keys().next_back().copied().unwrap_or(first - 1);
    for pair in transitions.windows(2) {
        if pair[1].0 != pair[0].0 + 1 {
            return Some(format!("a gap between {} and {}", pair[0].0, pair[1].0));
        }
        if pair[1].2 < pair[0].2 {
            return Some(format!("{} is earlier than what came before", pair[1].0));
        }
    }
    match (transitions.first(), transitions.last()) {
        (Some((start, ..)), _) if *start > newest + 1 => {
            return Some(format!("{start} after {newest}"));
        }
        (_, Some((end, ..))) if *end < newest => return Some(format!("{newest} is gone")),
        _ => {}
    }
    for (seq, event, _) in transitions {
        let known = history.entry(*seq).or_insert_with(|| event.clone());
        if known != event {
            return Some(format!("{seq} was {known} and is {event}"));
        }
    }
    None
}

fn parsed<T: serde::de::DeserializeOwned>(object: Option<&Value>) -> Option<T> {
    T::deserialize(object?).ok()
}

/// An event's name, as it is written.
fn text(event: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(event).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn is_final(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed" | "Cancelled" | "TimedOut")
}

/// The UID of the task execution that a pod says to belong to.
fn owner(pod: &Pod) -> Option<String> {
    let owners = pod.owner_references().iter();
    let mut ours = owners.filter(|owner| owner.kind == "TaskExecution");
    ours.next().map(|owner| owner.uid.clone())
}

fn attempt(pod: &Pod) -> u32 {
    let label = pod.labels().get(LABEL_ATTEMPT);
    label.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let main = statuses.iter().find(|container| container.name == "main")?;
    Some(main.state.as_ref()?.terminated.as_ref()?.exit_code)
}
