//! A run in memory: its definition, where its tasks are, and what is still to be taken in.
//! Rebuilt from the cluster at any time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;

use super::index::{Index, key_of, sibling};
use crate::{
    api::{TaskExecution, TaskPhase, Time, Workflow},
    engine::{
        definition::{Definition, Installation},
        field_error::FieldError,
        names,
        run::{NodeState, Run, TaskIndex},
        workflow::changed_spec,
    },
};

/// A run in memory.
pub struct Progress {
    uid: String,
    generation: Option<i64>,
    graph: Result<(Definition, Run), Vec<FieldError>>,
    names: Vec<Arc<str>>,
    tasks: HashMap<Arc<str>, TaskIndex>,
    /// Names of task executions to look at.
    marked: BTreeSet<Arc<str>>,
    last_write: Option<Time>,
    /// Creations that were sent and not answered: their task executions may be there, or may yet
    /// come.
    unanswered: Mutex<BTreeMap<TaskIndex, TaskExecution>>,
    /// An earlier leader may have created task executions that no watch has shown so far.
    inherited: bool,
}

impl Progress {
    /// Understands the workflow and takes in all that exists of it.
    pub fn rebuild(workflow: &Workflow, installation: &Installation, index: &Index) -> Progress {
        let uid = workflow.uid().unwrap_or_default();
        let graph = match changed_spec(workflow) {
            Some(error) => Err(vec![error]),
            None => Definition::compile(&workflow.spec, installation).map(|definition| {
                let run = Run::new(&definition);
                (definition, run)
            }),
        };
        let name = workflow.name_any();
        let names: Vec<Arc<str>> = workflow
            .spec
            .tasks
            .iter()
            .map(|task| names::task_execution_name(&name, &uid, &task.name).into())
            .collect();
        let tasks = names
            .iter()
            .cloned()
            .enumerate()
            .map(|(task, name)| (name, task))
            .collect();
        let mut progress = Progress {
            uid,
            generation: workflow.metadata.generation,
            graph,
            names,
            tasks,
            marked: BTreeSet::new(),
            last_write: None,
            unanswered: Mutex::default(),
            inherited: is_under_way(workflow),
        };
        progress.take_in(workflow, index);
        progress
    }

    /// What exists; and what has begun, as status or a pod says that is there.
    fn take_in(&mut self, workflow: &Workflow, index: &Index) {
        let key = key_of(workflow);
        let rows = workflow.status.iter().flat_map(|status| &status.tasks);
        let shown: BTreeSet<&str> = rows
            .filter(|row| row.has_begun())
            .map(|row| row.name.as_str())
            .collect();
        for (task, spec) in workflow.spec.tasks.iter().enumerate() {
            let name = self.names[task].clone();
            let execution = sibling(&key, &name);
            let begun = || shown.contains(spec.name.as_str()) || index.has_pods(&execution);
            if index.execution(&execution).is_none() && begun() {
                self.observe_begun(task);
            }
        }
        for name in index.children(&self.uid) {
            if let Some(execution) = index.execution(&sibling(&key, &name)) {
                self.observe(&execution);
            }
        }
    }

    /// What was known of the same run when its spec was another one.
    #[must_use]
    pub fn following(mut self, before: Option<Progress>) -> Progress {
        let Some(before) = before.filter(|before| before.uid == self.uid) else {
            return self;
        };
        self.inherited = before.inherited;
        self.unanswered = before.unanswered;
        if let Ok((_, run)) = &before.graph {
            (0..before.names.len())
                .filter(|task| has_begun(run.state(*task)))
                .for_each(|task| self.observe_begun(task));
        }
        self
    }

    /// A task has begun, whatever became of it: if nothing of it is there it must not run again.
    fn observe_begun(&mut self, task: TaskIndex) {
        let Ok((definition, run)) = &mut self.graph else {
            return;
        };
        if !has_begun(run.state(task)) {
            let since = Time(jiff::Timestamp::UNIX_EPOCH);
            run.observe(definition, task, TaskPhase::Pending, since);
            self.marked.insert(self.names[task].clone());
        }
    }

    /// Whether this is still the run of that object, and its spec was looked at.
    pub fn is_of(&self, workflow: &Workflow) -> bool {
        workflow.metadata.uid.as_deref() == Some(&self.uid)
            && workflow.metadata.generation == self.generation
    }

    /// The workflow's UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The definition and the run, or what is wrong with the spec.
    pub fn graph(&self) -> Result<(&Definition, &Run), &[FieldError]> {
        match &self.graph {
            Ok((definition, run)) => Ok((definition, run)),
            Err(errors) => Err(errors),
        }
    }

    /// The name of a task's execution.
    pub fn name(&self, task: TaskIndex) -> Option<&str> {
        self.names.get(task).map(AsRef::as_ref)
    }

    /// The tasks that a task waits for.
    pub fn dependencies(&self, task: TaskIndex) -> impl Iterator<Item = TaskIndex> + '_ {
        let definition = self.graph.as_ref().ok().map(|(definition, _)| definition);
        definition
            .into_iter()
            .flat_map(move |definition| definition.tasks()[task].dependencies.iter().copied())
    }

    /// Remembers to look at a task execution.
    pub fn mark(&mut self, name: &str) {
        self.marked.insert(name.into());
    }

    /// The next task execution to look at.
    pub fn next_marked(&mut self) -> Option<Arc<str>> {
        self.marked.pop_first()
    }

    /// Whether the run thinks that this task execution is under way.
    pub fn is_active(&self, name: &str) -> bool {
        match (self.tasks.get(name), &self.graph) {
            (Some(&task), Ok((_, run))) => matches!(run.state(task), NodeState::Active(_)),
            _ => false,
        }
    }

    /// Takes in a task execution.
    pub fn observe(&mut self, execution: &TaskExecution) {
        if execution.spec.workflow.uid != self.uid {
            return;
        }
        let name = execution.name_any();
        if let (Some(&task), Ok((definition, run))) =
            (self.tasks.get(name.as_str()), &mut self.graph)
        {
            lock(&self.unanswered).remove(&task);
            let status = execution.status.as_ref();
            let phase = status.map(|status| status.phase).unwrap_or_default();
            let ended_at = status.and_then(|status| status.finished_at);
            run.observe(
                definition,
                task,
                phase,
                ended_at.unwrap_or(Time(jiff::Timestamp::UNIX_EPOCH)),
            );
        }
    }

    /// A task execution that had not ended is gone, deleted by somebody: it counts as cancelled.
    pub fn observe_gone(&mut self, name: &str, now: Time) {
        if let (Some(&task), Ok((definition, run))) = (self.tasks.get(name), &mut self.graph) {
            run.observe(definition, task, TaskPhase::Cancelled, now);
        }
    }

    /// A task execution is about to be created.
    pub fn sends(&self, task: TaskIndex, execution: &TaskExecution) {
        lock(&self.unanswered).insert(task, execution.clone());
    }

    /// The API server said what came of a creation.
    pub fn answered(&self, task: TaskIndex) {
        lock(&self.unanswered).remove(&task);
    }

    /// The creations that were sent and not answered.
    pub fn unanswered(&self) -> Vec<(TaskIndex, TaskExecution)> {
        lock(&self.unanswered).clone().into_iter().collect()
    }

    /// Whether no task execution can be there that was not seen. One that an earlier leader created
    /// would be of a task that was to start.
    pub fn all_seen(&self) -> bool {
        let all_started = |run: &Run| !run.has_ready();
        let inherits_none =
            !self.inherited || matches!(&self.graph, Ok((_, run)) if all_started(run));
        inherits_none && lock(&self.unanswered).is_empty()
    }

    /// The API server was asked for all task executions.
    pub fn confirmed(&mut self) {
        self.inherited = false;
    }

    /// When status was last written by this process.
    pub fn last_write(&self) -> Option<Time> {
        self.last_write
    }

    /// Status was written.
    pub fn wrote(&mut self, at: Time) {
        self.last_write = Some(at);
    }
}

fn is_under_way(workflow: &Workflow) -> bool {
    let status = workflow.status.as_ref();
    status.is_some_and(|status| status.started_at.is_some())
}

/// Whether the execution of a task was there.
fn has_begun(state: NodeState) -> bool {
    matches!(state, NodeState::Active(_) | NodeState::Ended(_))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves it whole, so a poisoned lock is still good.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a task execution has reached a final phase.
pub fn is_ended(execution: &TaskExecution) -> bool {
    execution
        .status
        .as_ref()
        .is_some_and(|status| status.phase.is_final())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(generation: i64) -> Workflow {
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": "n", "uid": "wu", "generation": generation},
            "spec": {"tasks": [{"name": "a", "container": {"image": "x"}},
                               {"name": "b", "container": {"image": "x"}}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_task_that_was_taken_away_is_not_forgotten_when_the_run_is_suspended() {
        let (index, installation) = (Index::default(), Installation::default());
        let mut progress = Progress::rebuild(&run(1), &installation, &index);
        let name = progress.name(1).unwrap().to_owned();
        progress.observe_gone(&name, Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(!progress.is_of(&run(2)));
        let mut next = Progress::rebuild(&run(2), &installation, &index).following(Some(progress));
        assert_eq!(next.next_marked().as_deref(), Some(name.as_str()));
        assert!(next.is_active(&name), "until the API server was asked");
        let (_, run) = next.graph().unwrap();
        assert_eq!(run.state(0), NodeState::Ready);
    }
}
