//! What always holds, in every world and at every moment. Each law is a function that says how it
//! is broken, if it is.

use std::collections::BTreeSet;

use compozy::{
    api::{
        FINISHED, FailureClass, ItemFailurePolicy, LABEL_ATTEMPT, OnFailure, RunPhase, Task,
        TaskEvent, TaskExecution, TaskExecutionStatus, TaskPhase, TransitionData, Workflow,
        WorkflowEvent, WorkflowStatus,
    },
    engine::{attempt, outcome},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{key, task_of};

/// A run and all that belongs to it, at one moment.
pub struct Moment<'a> {
    pub workflow: &'a Workflow,
    pub executions: Vec<&'a TaskExecution>,
    pub pods: Vec<&'a Pod>,
    /// Task executions that somebody took away, by their keys.
    pub taken: BTreeSet<&'a str>,
}

type Law = (&'static str, fn(&Moment) -> Option<String>);

/// The laws of a moment.
const OF_A_MOMENT: [Law; 12] = [
    (
        "no task starts before its dependencies ended well",
        in_order,
    ),
    ("the parallelism is kept", within_parallelism),
    ("a task's own limit is kept", within_max_parallel),
    ("an item has one execution", one_execution),
    ("a task has one pod that runs", one_pod_runs),
    ("an attempt has one result", one_result),
    ("no budget is overdrawn", within_budget),
    ("a pause is within its bound", pauses_are_bounded),
    ("a run's history is one story", story_of_the_run),
    ("a task's history is one story", stories_of_tasks),
    (
        "a run ends after its tasks, as they ended",
        ends_as_its_tasks,
    ),
    ("who is asked to end was decided upon", stops_are_decided),
];

/// The first law that is broken at this moment, and how.
pub fn broken(moment: &Moment) -> Option<String> {
    OF_A_MOMENT
        .iter()
        .find_map(|(law, how)| how(moment).map(|how| format!("{law}: {how}")))
}

/// How a law is broken by a change of a run's status.
pub fn broken_by_run(before: &WorkflowStatus, after: &WorkflowStatus) -> Option<String> {
    if before.phase.is_final() && before.phase != after.phase {
        return Some(format!(
            "final is final: {:?} became {:?}",
            before.phase, after.phase
        ));
    }
    if before.started_at.is_some() && before.started_at != after.started_at {
        return Some("a run begins once".to_owned());
    }
    let dropped = dropped(&before.transitions, &after.transitions, |seen| seen.seq);
    dropped
        .is_none()
        .then(|| format!("history is only added to: {:?}", after.transitions))
}

/// How a law is broken by a change of a task execution's status.
pub fn broken_by_task(before: &TaskExecutionStatus, after: &TaskExecutionStatus) -> Option<String> {
    if before.phase.is_final() {
        return Some(format!(
            "final is final: {:?} was written again",
            before.phase
        ));
    }
    if after.attempt < before.attempt {
        return Some(format!(
            "attempt {} came after {}",
            after.attempt, before.attempt
        ));
    }
    // What the stream has may be dropped.
    let mirrored = before.mirror.as_ref().map_or(0, |mirror| mirror.seq);
    let dropped = dropped(&before.transitions, &after.transitions, |seen| seen.seq);
    let continues = dropped.is_some_and(|last| last <= mirrored);
    (!continues).then(|| format!("history is only added to: {:?}", after.transitions))
}

/// The last of a history that was dropped from its front, 0 if nothing was; none if what follows
/// did not stay as it was, with more at its end.
fn dropped<T: PartialEq>(before: &[T], after: &[T], seq: fn(&T) -> u64) -> Option<u64> {
    let kept_from = after.first().map_or(u64::MAX, seq);
    let count = before
        .iter()
        .take_while(|seen| seq(seen) < kept_from)
        .count();
    let (dropped, kept) = before.split_at(count);
    after
        .starts_with(kept)
        .then(|| dropped.last().map_or(0, seq))
}

fn status_of(te: &TaskExecution) -> TaskExecutionStatus {
    te.status.clone().unwrap_or_default()
}

fn phase_of(te: &TaskExecution) -> TaskPhase {
    te.status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default()
}

fn in_order(moment: &Moment) -> Option<String> {
    let tasks = &moment.workflow.spec.tasks;
    let has_begun = |task: &&Task| executions_of(moment, &task.name).next().is_some();
    let needs = tasks.iter().filter(has_begun).flat_map(|task| {
        let needs = task.depends_on.iter();
        needs.map(move |needed| (&task.name, needed))
    });
    let ended_well = |name: &str| {
        let task = tasks.iter().find(|task| task.name == name);
        task.is_some_and(|task| has_ended_well(moment, task))
    };
    needs
        .into_iter()
        .find(|(_, needed)| !ended_well(needed))
        .map(|(task, needed)| {
            let phases: Vec<_> = executions_of(moment, needed).map(phase_of).collect();
            format!("{task} began, {needed} is {phases:?}")
        })
}

fn executions_of<'a>(moment: &'a Moment, task: &'a str) -> impl Iterator<Item = &'a TaskExecution> {
    let executions = moment.executions.iter().copied();
    executions.filter(move |te| te.spec.task == task)
}

/// Whether all that a task has ended well, as far as can be said of one whose items only an
/// expression knows.
fn has_ended_well(moment: &Moment, task: &Task) -> bool {
    let tolerated = task.on_failure == Some(OnFailure::Continue);
    let well = |te: &TaskExecution| match phase_of(te) {
        TaskPhase::Succeeded => true,
        phase => phase.is_final() && tolerated,
    };
    let items = task.for_each.as_ref().map(|it| it.items.as_array());
    let least = items.map_or(1, |list| list.map_or(0, Vec::len));
    let seen = executions_of(moment, &task.name);
    let whole = seen.count() >= least || moment.taken.iter().any(|of| task_of(of) == task.name);
    whole && executions_of(moment, &task.name).all(well)
}

fn within_max_parallel(moment: &Moment) -> Option<String> {
    moment.workflow.spec.tasks.iter().find_map(|task| {
        let limit = task.for_each.as_ref()?.max_parallel? as usize;
        let seen = executions_of(moment, &task.name);
        let open = seen.filter(|te| !phase_of(te).is_final()).count();
        (open > limit).then(|| format!("{open} of {} under way, {limit} may be", task.name))
    })
}

fn one_execution(moment: &Moment) -> Option<String> {
    let mut seen = BTreeSet::new();
    let mut executions = moment.executions.iter();
    let twice = executions.find(|te| !seen.insert((&te.spec.task, te.spec.index)));
    twice.map(|te| key(te))
}

fn within_parallelism(moment: &Moment) -> Option<String> {
    let limit = moment.workflow.spec.parallelism.unwrap_or(50) as usize;
    let open = moment
        .executions
        .iter()
        .filter(|te| !phase_of(te).is_final())
        .count();
    (open > limit).then(|| format!("{open} under way, {limit} may be"))
}

/// Whether the program of a pod runs, or may at any moment.
fn may_run(pod: &Pod) -> bool {
    match outcome::observe(pod, None) {
        outcome::PodState::Ended(ended) => ended.lingers,
        outcome::PodState::Running { .. } | outcome::PodState::Waiting { .. } => true,
    }
}

fn one_pod_runs(moment: &Moment) -> Option<String> {
    moment.executions.iter().find_map(|te| {
        let uid = te.metadata.uid.as_deref();
        let owned = |pod: &&&Pod| {
            pod.owner_references()
                .iter()
                .any(|owner| Some(owner.uid.as_str()) == uid)
        };
        let alive: Vec<_> = moment
            .pods
            .iter()
            .filter(owned)
            .filter(|pod| may_run(pod))
            .map(|pod| pod.name_any())
            .collect();
        (alive.len() > 1).then(|| format!("{alive:?}"))
    })
}

fn one_result(moment: &Moment) -> Option<String> {
    moment.executions.iter().copied().find_map(one_result_of)
}

/// What is wrong with the attempts that a task execution tells of.
pub fn one_result_of(te: &TaskExecution) -> Option<String> {
    let status = status_of(te);
    let attempts = &status.attempts;
    let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.number).collect();
    let ascending = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let failed = [FailureClass::Application, FailureClass::Infrastructure].map(|class| {
        let of_class = attempts
            .iter()
            .filter(|attempt| attempt.class == Some(class));
        u32::try_from(of_class.count()).unwrap_or(u32::MAX)
    });
    let counted = [status.failures.application, status.failures.infrastructure];
    let counts = attempts.len() >= 10 || failed == counted;
    (!ascending || !counts).then(|| {
        let task = &te.spec.task;
        format!("{task}: attempts {numbers:?}, {failed:?} failed, {counted:?} counted")
    })
}

fn within_budget(moment: &Moment) -> Option<String> {
    moment.executions.iter().find_map(|te| {
        let failures = status_of(te).failures;
        let over = failures.application > te.spec.retry.max_attempts
            || failures.infrastructure > te.spec.infrastructure_retries + 1;
        let pods = moment.pods.iter().filter(|pod| {
            let number = pod
                .labels()
                .get(LABEL_ATTEMPT)
                .and_then(|label| label.parse().ok());
            number.is_some_and(|number| attempt::is_ours(pod, te, number))
        });
        let last = pods
            .filter_map(|pod| pod.labels().get(LABEL_ATTEMPT)?.parse::<u32>().ok())
            .max()
            .unwrap_or(0);
        let next = failures.application + failures.infrastructure + 1;
        (over || last > next).then(|| format!("{}: {failures:?}, pod {last}", te.spec.task))
    })
}

fn pauses_are_bounded(moment: &Moment) -> Option<String> {
    moment.executions.iter().copied().find_map(too_long_a_pause)
}

/// A pause before a retry that is longer than the task's bound.
pub fn too_long_a_pause(te: &TaskExecution) -> Option<String> {
    let longest = te.spec.retry.backoff.max.millis();
    let transitions = status_of(te).transitions;
    let mut pauses = transitions
        .iter()
        .filter_map(|seen| TransitionData::read(seen.data.as_ref()).next_attempt_delay_ms);
    let pause = pauses.find(|pause| *pause > longest)?;
    Some(format!(
        "{}: a pause of {pause} ms, {longest} at most",
        te.spec.task
    ))
}

fn story_of_the_run(moment: &Moment) -> Option<String> {
    let status = moment.workflow.status.clone().unwrap_or_default();
    // Suspending and resuming is beside how a run begins and ends.
    let events: Vec<_> = status
        .transitions
        .iter()
        .map(|seen| seen.event)
        .filter(|event| {
            !matches!(
                event,
                WorkflowEvent::WaitingStarted | WorkflowEvent::WaitingEnded
            )
        })
        .collect();
    let first = status.transitions.first().map_or(1, |first| first.seq);
    let gapless = (first..)
        .zip(&status.transitions)
        .all(|(seq, seen)| seen.seq == seq);
    let timely = status.transitions.is_sorted_by_key(|seen| seen.at);
    let fits = match (&events[..], status.phase) {
        ([], RunPhase::Pending) => true,
        (
            [WorkflowEvent::Started],
            RunPhase::Running | RunPhase::Suspended | RunPhase::Stopping,
        ) => true,
        ([WorkflowEvent::Started, end], phase) => matches!(
            (end, phase),
            (WorkflowEvent::Completed, RunPhase::Succeeded)
                | (WorkflowEvent::Failed, RunPhase::Failed)
                | (
                    WorkflowEvent::Cancelled,
                    RunPhase::Stopping | RunPhase::Cancelled
                )
                | (
                    WorkflowEvent::TimedOut,
                    RunPhase::Stopping | RunPhase::TimedOut
                )
        ),
        _ => false,
    };
    let finished = status
        .conditions
        .iter()
        .any(|condition| condition.kind == FINISHED);
    let ended = status.phase.is_final();
    let whole = finished == ended && status.finished_at.is_some() == ended;
    (!(gapless && timely && fits && whole)).then(|| format!("{:?}, {events:?}", status.phase))
}

fn stories_of_tasks(moment: &Moment) -> Option<String> {
    moment.executions.iter().find_map(|te| {
        let status = status_of(te);
        story(&status).map(|how| format!("{}: {how}, {:?}", te.spec.task, status.transitions))
    })
}

/// What does not fit in a task execution's history.
fn story(status: &TaskExecutionStatus) -> Option<&'static str> {
    let seen = &status.transitions;
    let first = seen.first().map_or(2, |first| first.seq);
    if !(first..).zip(seen).all(|(seq, seen)| seen.seq == seq) {
        return Some("a gap");
    }
    if !seen.is_sorted_by_key(|seen| (seen.attempt, seen.at)) {
        return Some("time runs backwards");
    }
    let follows = |before: TaskEvent, after: TaskEvent| match before {
        TaskEvent::Scheduled | TaskEvent::RetryScheduled => {
            !matches!(after, TaskEvent::Scheduled | TaskEvent::RetryScheduled)
        }
        TaskEvent::Started => {
            matches!(
                after,
                TaskEvent::Completed
                    | TaskEvent::Failed
                    | TaskEvent::Cancelled
                    | TaskEvent::ToolStarted
                    | TaskEvent::ToolFailed
            )
        }
        TaskEvent::ToolStarted => {
            matches!(after, TaskEvent::ToolCompleted | TaskEvent::ToolFailed)
        }
        TaskEvent::ToolCompleted | TaskEvent::ToolFailed => {
            matches!(
                after,
                TaskEvent::Completed | TaskEvent::Failed | TaskEvent::Cancelled
            )
        }
        TaskEvent::Failed => matches!(after, TaskEvent::RetryScheduled | TaskEvent::Cancelled),
        TaskEvent::Completed | TaskEvent::Cancelled => false,
    };
    let events = std::iter::once(TaskEvent::Scheduled).chain(seen.iter().map(|seen| seen.event));
    let pruned = first > 2;
    let fits = events
        .clone()
        .zip(events.clone().skip(1))
        .skip(usize::from(pruned));
    if !fits
        .into_iter()
        .all(|(before, after)| follows(before, after))
    {
        return Some("events that do not follow each other");
    }
    let last = events.last();
    let expected = match status.phase {
        TaskPhase::Succeeded => last == Some(TaskEvent::Completed),
        TaskPhase::Failed => last == Some(TaskEvent::Failed),
        TaskPhase::Cancelled => last == Some(TaskEvent::Cancelled),
        TaskPhase::Running => last == Some(TaskEvent::Started),
        TaskPhase::Retrying => last == Some(TaskEvent::RetryScheduled),
        TaskPhase::Pending => {
            matches!(
                last,
                Some(TaskEvent::Scheduled | TaskEvent::RetryScheduled | TaskEvent::Started)
            )
        }
    };
    let finished = status
        .conditions
        .iter()
        .any(|condition| condition.kind == FINISHED);
    let whole = finished == status.phase.is_final()
        && status.finished_at.is_some() == status.phase.is_final()
        && (status.phase.is_final() && status.phase != TaskPhase::Succeeded)
            == status.error.is_some();
    (!expected || !whole).then_some("a phase that the last event does not tell")
}

fn ends_as_its_tasks(moment: &Moment) -> Option<String> {
    let phase = moment.workflow.status.as_ref()?.phase;
    if !phase.is_final() {
        return None;
    }
    let open = moment.executions.iter().find(|te| !phase_of(te).is_final());
    if let Some(te) = open {
        return Some(format!("{phase:?}, but {} has not ended", te.spec.task));
    }
    let tasks = &moment.workflow.spec.tasks;
    let fails = |te: &&&TaskExecution| {
        let task = tasks.iter().find(|task| task.name == te.spec.task);
        let tolerated = task.is_some_and(|task| task.on_failure == Some(OnFailure::Continue));
        phase_of(te) != TaskPhase::Succeeded && !tolerated
    };
    let failed = moment.executions.iter().find(fails);
    let rows = moment
        .workflow
        .status
        .iter()
        .flat_map(|status| &status.tasks);
    let shown = |phase: &str| matches!(phase, "Waiting" | "Pending" | "Running" | "Retrying");
    if let Some(row) = rows.into_iter().find(|row| shown(&row.phase)) {
        return Some(format!(
            "{phase:?}, but shows {} as {}",
            row.name, row.phase
        ));
    }
    match (phase, failed) {
        (RunPhase::Succeeded, Some(te)) => Some(format!("Succeeded, but {} did not", te.spec.task)),
        (RunPhase::Succeeded, None) => {
            let ended = |task: &&Task| has_ended_well(moment, task);
            let missing = tasks.iter().find(|task| !ended(task))?;
            Some(format!("Succeeded, but {} did not run", missing.name))
        }
        _ => None,
    }
}

/// Whether another item of its task failed, which ends it.
fn an_item_failed(moment: &Moment, te: &TaskExecution) -> bool {
    let tasks = &moment.workflow.spec.tasks;
    let task = tasks.iter().find(|task| task.name == te.spec.task);
    let policy = task.and_then(|task| task.for_each.as_ref()?.failure_policy);
    let mut others = executions_of(moment, &te.spec.task);
    policy == Some(ItemFailurePolicy::Cancel)
        && others.any(|te| matches!(phase_of(te), TaskPhase::Failed | TaskPhase::Cancelled))
}

/// The workflow writes that a task is to end only after it has decided so.
fn stops_are_decided(moment: &Moment) -> Option<String> {
    let status = moment.workflow.status.as_ref()?;
    let halted = status.transitions.iter().any(|seen| {
        matches!(
            seen.event,
            WorkflowEvent::Cancelled | WorkflowEvent::TimedOut
        )
    });
    // Under `failurePolicy: Cancel` the failure stands in status before it ends the others.
    let halted = halted || status.error.is_some();
    let mut stopped = moment.executions.iter().filter(|te| {
        let container = te.spec.container.is_some();
        te.spec
            .stop
            .as_ref()
            .is_some_and(|stop| container && stop.code == "CANCELLED")
    });
    stopped
        .find(|te| {
            !halted
                && !an_item_failed(moment, te)
                && compozy::engine::workflow::changed_spec(moment.workflow).is_none()
        })
        .map(|te| format!("{} is asked to end", te.spec.task))
}
