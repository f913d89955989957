//! What users ask of a run while it goes on holds: suspended, ended by a failure, its time over.

use compozy::api::{FailurePolicy, TaskExecution, Time, Workflow};
use kube::ResourceExt;
use serde_json::Value;

use super::{Laws, parsed};

impl Laws {
    /// The leader is about to create a task execution of this run.
    pub fn schedules(&mut self, task: &Value, run: &Value) {
        let (Some(task), Some(run)) = (
            parsed::<TaskExecution>(Some(task)),
            parsed::<Workflow>(Some(run)),
        ) else {
            return;
        };
        if run.uid().as_deref() != Some(&task.spec.workflow.uid) {
            return;
        }
        let status = run.status.unwrap_or_default();
        // What was sent before is sent again: only the answer tells whether the task has begun. Not
        // so if it came to be and is gone: that would run it twice.
        let first = self.scheduled.insert(task.name_any());
        // One that takes a name and does not begin.
        if task.spec.stop.is_some() {
            return;
        }
        let gone = self.executions.values().any(|seen| {
            let same = seen.task == task.spec.task && seen.index == task.spec.index;
            same && seen.run == task.spec.workflow.uid && seen.seen.gone
        });
        if status.suspension.is_on() && (first || gone) {
            let what = format!("{} is scheduled", task.name_any());
            self.break_with("a suspended run stands still", what);
        }
        let cancels = run.spec.failure_policy == Some(FailurePolicy::Cancel);
        if cancels && status.error.is_some() {
            let what = format!("{} is scheduled after it", task.name_any());
            self.break_with("a failure that cancels is the end", what);
        }
    }

    /// The leader is about to create a pod of this task execution.
    pub fn dispatches(&mut self, pod: &Value, execution: &Value) {
        let Some(execution) = parsed::<TaskExecution>(Some(execution)) else {
            return;
        };
        let status = execution.status.clone().unwrap_or_default();
        let owner = &pod["metadata"]["ownerReferences"][0]["uid"];
        if status.suspension.is_on() && execution.uid().as_deref() == owner.as_str() {
            let what = format!("{} is created", pod["metadata"]["name"]);
            self.break_with("a suspended run stands still", what);
        }
    }

    /// The leader is about to delete a run. `now` is the time, if its clock is right.
    pub fn expires(&mut self, run: &Value, now: Option<Time>) {
        let Some(run) = parsed::<Workflow>(Some(run)) else {
            return;
        };
        let uid = run.uid().unwrap_or_default();
        let status = run.status.unwrap_or_default();
        let ttl = run.spec.ttl.unwrap_or_default();
        let ttl = match format!("{:?}", status.phase).as_str() {
            "Succeeded" => ttl.after_succeeded,
            _ => ttl.after_failed,
        };
        let due = status.finished_at.zip(ttl);
        let due = due.map(|(finished, ttl)| finished.after(ttl.get()));
        if due.is_none_or(|due| now.is_some_and(|now| due > now)) {
            let what = format!("{uid}: due {due:?}, now {now:?}");
            self.break_with("a run stays for its time", what);
        }
        if self.lost_at.is_some() || self.retired || self.let_go {
            return;
        }
        let tasks = self.executions.iter();
        let tasks = tasks.filter(|(_, task)| task.run == uid && !task.seen.stripped);
        let histories = tasks.map(|(of, task)| (of, &task.history));
        let run = self
            .runs
            .iter()
            .filter(|(of, run)| **of == uid && !run.seen.stripped);
        let untold: Vec<_> = histories
            .chain(run.map(|(of, run)| (of, &run.history)))
            .filter(|(of, history)| {
                self.told_up_to(of) < history.keys().next_back().copied().unwrap_or(0)
            })
            .map(|(of, _)| of.clone())
            .collect();
        if !untold.is_empty() {
            let what = format!("{uid}: not all is told of {untold:?}");
            self.break_with("a run is deleted after it was told", what);
        }
    }
}
