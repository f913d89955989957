//! One state of a small world: objects, what the operator has of them, and what is under way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use compozy::{
    api::{TaskExecution, Time, Workflow},
    engine::{
        attempt,
        definition::Definition,
        resolve,
        run::{ExecutionIndex, NodeState, Run},
        workflow,
    },
};
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::{corpus::laws, played::memory};

/// An object, told from others by what it holds: two versions that hold the same are one.
#[derive(Clone)]
pub struct Object<T> {
    pub value: Arc<T>,
    pub version: u64,
}

impl<T: Serialize> Object<T> {
    pub fn new(value: T) -> Object<T> {
        let version = hash_of(&serde_json::to_vec(&value).unwrap());
        Object {
            value: Arc::new(value),
            version,
        }
    }
}

pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Which pod: its task and attempt.
pub type PodKey = (ExecutionIndex, u32);

/// Which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Run,
    Task(ExecutionIndex),
    Pod(PodKey),
}

/// Some of the objects.
#[derive(Clone, Default)]
pub struct Objects {
    pub run: Option<Object<Workflow>>,
    pub tasks: BTreeMap<ExecutionIndex, Object<TaskExecution>>,
    pub pods: BTreeMap<PodKey, Object<Pod>>,
}

impl Objects {
    fn versions(&self) -> Vec<(Key, u64)> {
        let run = self.run.iter().map(|run| (Key::Run, run.version));
        let tasks = self
            .tasks
            .iter()
            .map(|(task, te)| (Key::Task(*task), te.version));
        let pods = self
            .pods
            .iter()
            .map(|(key, pod)| (Key::Pod(*key), pod.version));
        run.chain(tasks).chain(pods).collect()
    }

    /// Makes one object what it is elsewhere; it may be missing.
    fn take(&mut self, key: Key, from: &Objects) {
        match key {
            Key::Run => self.run = from.run.clone(),
            Key::Task(task) => set(&mut self.tasks, task, from.tasks.get(&task)),
            Key::Pod(pod) => set(&mut self.pods, pod, from.pods.get(&pod)),
        }
    }
}

fn set<K: Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: K, value: Option<&V>) {
    match value {
        Some(value) => map.insert(key, value.clone()),
        None => map.remove(&key),
    };
}

/// A write that is decided, and from which version.
#[derive(Clone)]
pub enum Effect {
    Run(workflow::Step, u64),
    Task(ExecutionIndex, attempt::Step, u64),
}

impl Effect {
    fn digest(&self) -> u64 {
        hash_of(&match self {
            Effect::Run(step, base) => format!("{base} {step:?}"),
            Effect::Task(task, step, base) => format!("{task:?} {base} {step:?}"),
        })
    }
}

/// How much more of each kind may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// The operator ends and begins anew, a write of it still under way or not.
    pub crashes: u8,
    /// A change is seen late.
    pub late: u8,
    /// A write is done and its answer lost, or it is not done.
    pub lost: u8,
    /// A pod fails by its own fault.
    pub failures: u8,
    /// A pod is evicted, deleted or taken away by somebody.
    pub infrastructure: u8,
    /// Somebody cancels the run.
    pub cancel: u8,
    /// Somebody suspends the run, and will resume it.
    pub suspend: u8,
    /// Somebody deletes the run.
    pub delete: u8,
    /// Somebody deletes a task execution.
    pub tasks: u8,
    /// Somebody takes a task execution away, finalizer and all.
    pub strip: u8,
}

/// One state.
#[derive(Clone)]
pub struct State {
    /// What the API server has.
    pub truth: Objects,
    /// What the operator has of it.
    pub cache: Objects,
    /// What of that is old.
    pub late: BTreeSet<Key>,
    /// The run in the operator's memory.
    pub memory: Run,
    /// What each reconciler has still to write of its plan: that of the workflow, or of a task.
    pub pending: BTreeMap<Option<ExecutionIndex>, VecDeque<Effect>>,
    /// A write of an operator that is no more.
    pub straggler: Option<Effect>,
    pub now: Time,
    pub left: Left,
    /// Task executions that somebody took away, and their keys.
    pub taken: BTreeMap<ExecutionIndex, String>,
}

impl State {
    /// What tells this state from others.
    pub fn digest(&self, definition: &Definition) -> u64 {
        let pending: Vec<_> = self
            .pending
            .iter()
            .map(|(who, effects)| (*who, effects.iter().map(Effect::digest).collect::<Vec<_>>()))
            .collect();
        hash_of(&(
            (self.truth.versions(), self.cache.versions(), &self.late),
            (self.digest_of_memory(definition), pending),
            self.straggler.as_ref().map(Effect::digest),
            (self.now.0.as_millisecond(), self.left, &self.taken),
        ))
    }

    /// What the workflow's next steps depend on.
    pub fn digest_of_run(&self, definition: &Definition) -> u64 {
        let tasks: Vec<_> = self.cache.tasks.values().map(|te| te.version).collect();
        hash_of(&(
            ("run", self.cache.run.as_ref().map(|run| run.version), tasks),
            self.digest_of_memory(definition),
            self.truth.tasks.keys().collect::<Vec<_>>(),
            self.now.0.as_millisecond(),
        ))
    }

    fn digest_of_memory(&self, definition: &Definition) -> u64 {
        let nodes: Vec<_> = (0..definition.tasks().len())
            .map(|task| match self.memory.state(task) {
                NodeState::Waiting => "waiting",
                NodeState::Ready => "ready",
                NodeState::Skipped => "skipped",
                NodeState::Active(phase) | NodeState::Ended(phase) => phase.as_str(),
            })
            .collect();
        let failure = self.memory.first_failure();
        let failure = failure.map(|first| (first.at.0.as_millisecond(), first.of));
        let begun: Vec<_> = self.memory.begun().collect();
        let active: Vec<_> = self.memory.active().collect();
        hash_of(&(nodes, failure, self.memory.is_halted(), begun, active))
    }

    pub fn workflow(&self) -> &Workflow {
        &self.truth.run.as_ref().unwrap().value
    }

    /// The operator sees an object as it is.
    pub fn see(&mut self, key: Key, definition: &Definition) {
        self.late.remove(&key);
        self.cache.take(key, &self.truth);
        if let Key::Task(task) = key
            && let Some(te) = self.cache.tasks.get(&task)
        {
            memory::observe(&mut self.memory, definition, task, &te.value);
            self.expand(definition);
        }
    }

    /// The operator finds the items of the tasks whose time for that has come.
    fn expand(&mut self, definition: &Definition) {
        let tasks = &self.cache.tasks;
        let lookup = |which| tasks.get(&which).map(|te| te.value.clone());
        let run = self.truth.run.as_ref().unwrap();
        resolve::expand(&run.value, definition, &mut self.memory, &lookup);
    }

    /// An object changed. The operator sees that at once, or the change is late.
    pub fn changed(&mut self, key: Key, late: bool, definition: &Definition) {
        if late {
            self.late.insert(key);
        } else if !self.late.contains(&key) {
            self.see(key, definition);
        }
    }

    /// A new operator lists all there is.
    pub fn restart(&mut self, definition: &Definition) {
        self.cache = self.truth.clone();
        self.late.clear();
        self.pending.clear();
        let tasks = self
            .cache
            .tasks
            .iter()
            .map(|(task, te)| (*task, te.value.clone()));
        self.memory = memory::rebuild(definition, self.workflow(), &tasks.collect());
    }

    /// Whether all is over and nothing of ours is held. (What belonged to a task execution that
    /// was taken away is the garbage collector's.)
    pub fn is_over(&self) -> bool {
        let run = self.workflow().status.as_ref();
        if run.is_none() && self.workflow().metadata.deletion_timestamp.is_some() {
            return true; // It never began.
        }
        let tasks = || self.truth.tasks.values().map(|te| te.value.status.as_ref());
        let owned = self
            .truth
            .pods
            .iter()
            .filter(|(key, _)| self.truth.tasks.contains_key(&key.0));
        run.is_some_and(|status| status.phase.is_final())
            && tasks().all(|status| status.is_some_and(|status| status.phase.is_final()))
            && owned
                .into_iter()
                .all(|(_, pod)| !attempt::is_held(&pod.value))
    }

    /// The first law that is broken, and how.
    pub fn broken(&self) -> Option<String> {
        laws::broken(&laws::Moment {
            workflow: self.workflow(),
            executions: self
                .truth
                .tasks
                .values()
                .map(|te| te.value.as_ref())
                .collect(),
            pods: self
                .truth
                .pods
                .values()
                .map(|pod| pod.value.as_ref())
                .collect(),
            taken: self.taken.values().map(String::as_str).collect(),
        })
    }
}
