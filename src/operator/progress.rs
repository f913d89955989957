//! A run in memory: its definition, where its tasks are, and what is still to be taken in.
//! Rebuilt from the cluster at any time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;

use super::index::{Index, Key, key_of, sibling};
use crate::{
    api::{TaskExecution, TaskPhase, Time, Workflow},
    engine::{
        definition::{Definition, Installation},
        field_error::FieldError,
        names, resolve,
        run::{ExecutionIndex, Run, TaskIndex},
        workflow::changed_spec,
    },
};

/// What the names of a run's task executions are made of.
struct Names {
    workflow: String,
    uid: String,
    tasks: Vec<String>,
}

impl Names {
    fn of(workflow: &Workflow) -> Names {
        let tasks = workflow.spec.tasks.iter();
        Names {
            workflow: workflow.name_any(),
            uid: workflow.uid().unwrap_or_default(),
            tasks: tasks.map(|task| task.name.clone()).collect(),
        }
    }

    fn name(&self, which: ExecutionIndex) -> Option<Arc<str>> {
        let task = self.tasks.get(which.task)?;
        let name = names::task_execution_name(&self.workflow, &self.uid, task, which.item);
        Some(name.into())
    }
}

/// A run in memory.
pub struct Progress {
    generation: Option<i64>,
    graph: Result<(Definition, Run), Vec<FieldError>>,
    names: Names,
    /// The task executions that have begun, by their names.
    known: HashMap<Arc<str>, ExecutionIndex>,
    /// Names of task executions to look at.
    marked: BTreeSet<Arc<str>>,
    last_write: Option<Time>,
    /// Creations that were sent and not answered: their task executions may be there, or may yet
    /// come.
    unanswered: Mutex<BTreeMap<ExecutionIndex, TaskExecution>>,
    /// An earlier leader may have created task executions that no watch has shown so far.
    inherited: bool,
}

impl Progress {
    /// Understands the workflow and takes in all that exists of it.
    pub fn rebuild(workflow: &Workflow, installation: &Installation, index: &Index) -> Progress {
        let graph = match changed_spec(workflow) {
            Some(error) => Err(vec![error]),
            None => Definition::compile(&workflow.spec, installation).map(|definition| {
                let run = Run::new(&definition);
                (definition, run)
            }),
        };
        let mut progress = Progress {
            generation: workflow.metadata.generation,
            graph,
            names: Names::of(workflow),
            known: HashMap::new(),
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
        let shown: Vec<ExecutionIndex> = rows
            .filter_map(|row| Some((row, self.position(&row.name)?)))
            .flat_map(|(row, task)| row.begun().map(move |item| ExecutionIndex { task, item }))
            .collect();
        for which in shown {
            let execution = self.key(&key, which);
            if execution.is_some_and(|execution| index.execution(&execution).is_none()) {
                self.observe_begun(which);
            }
        }
        for task in 0..workflow.spec.tasks.len() {
            self.observe_begun_by_pods(task.into(), index, &key);
        }
        for name in index.children(self.uid()) {
            if let Some(execution) = index.execution(&sibling(&key, &name)) {
                self.observe(&execution);
            }
        }
        self.expand(workflow, index);
        if self.inherited {
            for which in self.fresh_items() {
                self.observe_begun_by_pods(which, index, &key);
            }
        }
    }

    /// Finds the items of the tasks whose time for that has come.
    pub fn expand(&mut self, workflow: &Workflow, index: &Index) {
        let key = key_of(workflow);
        let names = &self.names;
        if let Ok((definition, run)) = &mut self.graph {
            let lookup = |which| index.execution(&sibling(&key, &names.name(which)?));
            resolve::expand(workflow, definition, run, &lookup);
        }
    }

    /// Items that are known and were not seen to begin.
    fn fresh_items(&self) -> Vec<ExecutionIndex> {
        let Ok((_, run)) = &self.graph else {
            return Vec::new();
        };
        let of = |task| {
            let fresh = run.fresh_items(task);
            fresh.map(move |item| ExecutionIndex::of_item(task, item))
        };
        (0..self.names.tasks.len()).flat_map(of).collect()
    }

    fn position(&self, task: &str) -> Option<TaskIndex> {
        self.graph.as_ref().ok()?.0.position(task)
    }

    /// The key of a task execution of the run with this one.
    fn key(&self, run: &Key, which: ExecutionIndex) -> Option<Key> {
        Some(sibling(run, &self.names.name(which)?))
    }

    /// A pod of a task execution that is not there shows that it has begun.
    fn observe_begun_by_pods(&mut self, which: ExecutionIndex, index: &Index, run: &Key) {
        let left =
            |execution: Key| index.execution(&execution).is_none() && index.has_pods(&execution);
        if self.key(run, which).is_some_and(left) {
            self.observe_begun(which);
        }
    }

    /// What was known of the same run when its spec was another one.
    #[must_use]
    pub fn following(mut self, before: Option<Progress>) -> Progress {
        let Some(before) = before.filter(|before| before.uid() == self.uid()) else {
            return self;
        };
        self.inherited = before.inherited;
        self.unanswered = before.unanswered;
        if let Ok((_, run)) = &before.graph {
            run.begun().for_each(|which| self.observe_begun(which));
        }
        self
    }

    /// A task execution has begun, whatever became of it: if nothing of it is there it must not run
    /// again.
    fn observe_begun(&mut self, which: ExecutionIndex) {
        let (Ok((definition, run)), Some(name)) = (&mut self.graph, self.names.name(which)) else {
            return;
        };
        if !run.has_begun(which) {
            let since = Time(jiff::Timestamp::UNIX_EPOCH);
            run.observe(definition, which, TaskPhase::Pending, since);
            self.known.insert(name.clone(), which);
            self.marked.insert(name);
        }
    }

    /// Whether this is still the run of that object, and its spec was looked at.
    pub fn is_of(&self, workflow: &Workflow) -> bool {
        workflow.metadata.uid.as_deref() == Some(self.uid())
            && workflow.metadata.generation == self.generation
    }

    /// The workflow's UID.
    pub fn uid(&self) -> &str {
        &self.names.uid
    }

    /// The definition and the run, or what is wrong with the spec.
    pub fn graph(&self) -> Result<(&Definition, &Run), &[FieldError]> {
        match &self.graph {
            Ok((definition, run)) => Ok((definition, run)),
            Err(errors) => Err(errors),
        }
    }

    /// The name of a task execution.
    pub fn name(&self, which: ExecutionIndex) -> Option<Arc<str>> {
        self.names.name(which)
    }

    /// Those whose end lets a task execution start. Items after the first one may also have waited
    /// for room, which is nobody's end.
    pub fn freed_by(&self, which: ExecutionIndex) -> Vec<ExecutionIndex> {
        let Some((definition, run)) = self.graph.as_ref().ok().filter(|_| which.item < Some(1))
        else {
            return Vec::new();
        };
        let dependencies = definition.tasks()[which.task].dependencies.iter();
        let last = |&task: &TaskIndex| ExecutionIndex {
            task,
            item: run.last_item(task),
        };
        dependencies.map(last).collect()
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
    fn is_active(&self, name: &str) -> bool {
        match (self.known.get(name), &self.graph) {
            (Some(&which), Ok((_, run))) => run.is_active(which),
            _ => false,
        }
    }

    /// Whether a task execution that is not there counts as under way. What is marked was there: if the run never saw
    /// it, that came and went while the run waited for an answer, and it must not be created again.
    pub fn has_come_and_gone(&mut self, name: &str) -> bool {
        if !self.known.contains_key(name)
            && let Some(which) = self.unseen_of(name)
        {
            self.observe_begun(which);
            self.marked.remove(name);
        }
        self.is_active(name)
    }

    /// Which one that was not seen to begin has this name.
    fn unseen_of(&self, name: &str) -> Option<ExecutionIndex> {
        let whole = (0..self.names.tasks.len()).map(ExecutionIndex::from);
        let mut unseen = whole.chain(self.fresh_items());
        unseen.find(|which| self.name(*which).as_deref() == Some(name))
    }

    /// Takes in a task execution.
    pub fn observe(&mut self, execution: &TaskExecution) {
        let Some((which, name)) = self.which(execution) else {
            return;
        };
        self.known.insert(name, which);
        lock(&self.unanswered).remove(&which);
        let status = execution.status.as_ref();
        let phase = status.map(|status| status.phase).unwrap_or_default();
        let ended_at = status.and_then(|status| status.finished_at);
        let ended_at = ended_at.unwrap_or(Time(jiff::Timestamp::UNIX_EPOCH));
        if let Ok((definition, run)) = &mut self.graph {
            run.observe(definition, which, phase, ended_at);
        }
    }

    /// Which of the run's it is, and under its name: none if it is not one of them.
    fn which(&self, execution: &TaskExecution) -> Option<(ExecutionIndex, Arc<str>)> {
        let spec = &execution.spec;
        let task = self.position(&spec.task)?;
        let item = spec.index;
        let which = ExecutionIndex { task, item };
        let name = self.names.name(which)?;
        let ours = spec.workflow.uid == self.uid() && *name == *execution.name_any();
        ours.then_some((which, name))
    }

    /// A task execution that had not ended is gone, deleted by somebody: it counts as cancelled.
    pub fn observe_gone(&mut self, name: &str, now: Time) {
        if let (Some(&which), Ok((definition, run))) = (self.known.get(name), &mut self.graph) {
            run.observe(definition, which, TaskPhase::Cancelled, now);
        }
    }

    /// A task execution is about to be created.
    pub fn sends(&self, which: ExecutionIndex, execution: &TaskExecution) {
        lock(&self.unanswered).insert(which, execution.clone());
    }

    /// The API server said what came of a creation.
    pub fn answered(&self, which: ExecutionIndex) {
        lock(&self.unanswered).remove(&which);
    }

    /// The creations that were sent and not answered, and of which nothing else shows that they were done: a task that
    /// has begun and was taken away must not run again.
    pub fn unanswered(&self) -> Vec<(ExecutionIndex, TaskExecution)> {
        let sent = lock(&self.unanswered);
        let open = sent.iter().filter(|(which, _)| !self.has_begun(**which));
        open.map(|(which, execution)| (*which, execution.clone()))
            .collect()
    }

    fn has_begun(&self, which: ExecutionIndex) -> bool {
        matches!(&self.graph, Ok((_, run)) if run.has_begun(which))
    }

    /// Whether no task execution can be there that was not seen. One that an earlier leader created
    /// would be of a task that was to start.
    pub fn all_seen(&self) -> bool {
        let all_started = |run: &Run| !run.has_ready();
        let inherits_none =
            !self.inherited || matches!(&self.graph, Ok((_, run)) if all_started(run));
        inherits_none && self.unanswered().is_empty()
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
    use crate::engine::run::NodeState;

    fn run(generation: i64) -> Workflow {
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": "n", "uid": "wu", "generation": generation},
            "spec": {"tasks": [{"name": "a", "container": {"image": "x"}},
                               {"name": "b", "container": {"image": "x"}}]},
        }))
        .unwrap()
    }

    fn task_execution() -> TaskExecution {
        let backoff = json!({"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0});
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
            "metadata": {"name": "b", "namespace": "n"},
            "spec": {"workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "b", "container": {"image": "x"},
                     "retry": {"maxAttempts": 1, "backoff": backoff},
                     "infrastructureRetries": 1, "imagePullTimeout": "10m"},
        }))
        .unwrap()
    }

    #[test]
    fn a_task_that_was_taken_away_is_not_forgotten_when_the_run_is_suspended() {
        let (index, installation) = (Index::default(), Installation::default());
        let mut progress = Progress::rebuild(&run(1), &installation, &index);
        let name = progress.name(1.into()).unwrap();
        progress.observe_begun(1.into());
        progress.observe_gone(&name, Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(!progress.is_of(&run(2)));
        let mut next = Progress::rebuild(&run(2), &installation, &index).following(Some(progress));
        assert_eq!(next.next_marked(), Some(name.clone()));
        assert!(next.is_active(&name), "until the API server was asked");
        let (_, run) = next.graph().unwrap();
        assert_eq!(run.state(0), NodeState::Ready);
    }

    /// Its pod may show that it has begun, before anybody took in what its creation made.
    #[test]
    fn a_task_that_began_and_was_taken_away_is_not_created_again_for_want_of_an_answer() {
        let (index, installation) = (Index::default(), Installation::default());
        let progress = Progress::rebuild(&run(1), &installation, &index);
        progress.sends(1.into(), &task_execution());
        assert_eq!(progress.unanswered().len(), 1);
        let mut next = Progress::rebuild(&run(2), &installation, &index).following(Some(progress));
        let name = next.name(1.into()).unwrap();
        next.observe_begun(1.into());
        next.observe_gone(&name, Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(next.unanswered().is_empty());
        assert!(next.all_seen());
    }
}
