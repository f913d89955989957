//! What the operator knows of the cluster: fed by the watches and by the answers to its own
//! writes, so that it reads what it wrote.
//!
//! Plain data behind one lock; every method is short. Older versions never replace newer ones.

mod gone;
mod known;
mod slim;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use self::gone::Gone;
pub use self::known::Known;
use self::slim::{is_done, keep_first_deletion, slim_execution, slim_pod, slim_workflow};
use crate::{
    api::{FINALIZER_EVENTS, TaskExecution, TaskPhase, Workflow},
    engine::attempt,
};

/// Namespace and name.
pub type Key = (Arc<str>, Arc<str>);

/// The key of an object.
pub fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (
        meta.namespace.as_deref().unwrap_or_default().into(),
        meta.name.as_deref().unwrap_or_default().into(),
    )
}

/// A key in the namespace of another.
pub fn sibling(key: &Key, name: &str) -> Key {
    (key.0.clone(), name.into())
}

/// What a change of a task execution means for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new: an old version, or the answer to our own write.
    Stale,
    /// Something that its workflow does not care for.
    Minor,
    /// Its phase changed, it came, or it was let go.
    Notable,
}

/// The index.
#[derive(Debug, Default)]
pub struct Index(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    // In order, so that whoever acts on all of them does so in the same order everywhere.
    workflows: BTreeMap<Key, Arc<Workflow>>,
    executions: BTreeMap<Key, Arc<TaskExecution>>,
    pods: BTreeMap<Key, KnownPod>,
    /// Pods that went lately.
    gone: Gone,
    /// By task execution: the name of the last of its pods that somebody took away by force.
    lost: HashMap<Key, Arc<str>>,
    /// Names of task executions by their workflow's UID.
    children: HashMap<String, BTreeSet<Arc<str>>>,
    /// How many of them carry our finalizer.
    held: HashMap<String, usize>,
    /// Names of task executions whose phase changed since their workflow last looked.
    changed: HashMap<String, BTreeSet<Arc<str>>>,
}

impl Index {
    /// Takes in a workflow; false if it was known.
    pub fn apply_workflow(&self, workflow: Workflow) -> bool {
        let key = key_of(&workflow);
        let mut state = self.lock();
        if !is_newer(state.workflows.get(&key).map(AsRef::as_ref), &workflow) {
            return false;
        }
        state
            .workflows
            .insert(key, Arc::new(slim_workflow(workflow)));
        true
    }

    /// A workflow is gone. Another one of that name (another UID) is left alone.
    pub fn delete_workflow(&self, key: &Key, uid: Option<&str>) {
        let mut state = self.lock();
        if state
            .workflows
            .get(key)
            .is_some_and(|known| uid.is_none() || known.metadata.uid.as_deref() == uid)
            && let Some(gone) = state.workflows.remove(key)
        {
            state
                .changed
                .remove(gone.metadata.uid.as_deref().unwrap_or_default());
        }
    }

    /// Takes in a task execution.
    pub fn apply_execution(&self, execution: TaskExecution) -> Change {
        let key = key_of(&execution);
        let mut state = self.lock();
        let known = state.executions.get(&key).cloned();
        if !is_newer(known.as_deref(), &execution) {
            return Change::Stale;
        }
        let uid = execution.spec.workflow.uid.clone();
        let name = execution.spec.workflow.name.clone();
        state.count_held(&uid, known.as_deref(), Some(&execution));
        if known
            .as_ref()
            .is_some_and(|known| known.metadata.uid != execution.metadata.uid)
        {
            state.lost.remove(&key);
        }
        let changed = known.as_deref().map(shape) != Some(shape(&execution));
        state
            .children
            .entry(uid.clone())
            .or_default()
            .insert(key.1.clone());
        state
            .executions
            .insert(key.clone(), Arc::new(slim_execution(execution)));
        if !changed {
            return Change::Minor;
        }
        state.mark_changed(&key, &name, &uid);
        Change::Notable
    }

    /// A task execution is gone; returns what was known of it.
    pub fn delete_execution(&self, key: &Key, uid: Option<&str>) -> Option<Arc<TaskExecution>> {
        let mut state = self.lock();
        let known = state.executions.get(key)?;
        if uid.is_some() && known.metadata.uid.as_deref() != uid {
            return None;
        }
        let gone = state.executions.remove(key)?;
        state.lost.remove(key);
        let owner = gone.spec.workflow.uid.clone();
        state.count_held(&owner, Some(&gone), None);
        if let Some(children) = state.children.get_mut(&owner) {
            children.remove(&key.1);
            if children.is_empty() {
                state.children.remove(&owner);
            }
        }
        state.mark_changed(key, &gone.spec.workflow.name, &owner);
        Some(gone)
    }

    /// Whether a pod with this UID went after that moment: then what was asked there is no news of it.
    pub fn went_after(&self, uid: &str, asked: Instant) -> bool {
        self.lock().gone.after(uid, asked)
    }

    /// Takes in a pod; false if it was known.
    pub fn apply_pod(&self, pod: Pod) -> bool {
        let key = key_of(&pod);
        let version = Version::of(&pod);
        let mut state = self.lock();
        let known = state.pods.get(&key);
        if known.is_some_and(|known| !version.is_newer_than(&known.version)) {
            return false;
        }
        let mut pod = slim_pod(pod);
        if let Some(before) = known.and_then(|known| known.pod.as_ref()) {
            keep_first_deletion(before, &mut pod);
        }
        let pod = (!is_done(&pod)).then(|| Arc::new(pod));
        state.pods.insert(key, KnownPod { version, pod });
        true
    }

    /// A pod is gone; `execution` is whose it says to be.
    pub fn delete_pod(&self, key: &Key, uid: Option<&str>, execution: Option<&Key>) {
        let mut state = self.lock();
        let known = state.pods.get(key);
        if known.is_none_or(|known| uid.is_some_and(|uid| *known.version.uid != *uid)) {
            return;
        }
        let gone = state.pods.remove(key);
        if let Some(known) = &gone {
            state.gone.add(&known.version.uid);
        }
        // One that was let go is not lost.
        if let Some(pod) = gone.and_then(|known| known.pod)
            && let Some(execution) = execution
            && let Some(owner) = state.executions.get(execution)
            && attempt::is_owned(&pod, owner)
        {
            state.lost.insert(execution.clone(), key.1.clone());
        }
    }

    /// Whether this pod of the task execution was the last one that is gone though nobody let it go, as far as the
    /// cache saw that.
    pub fn is_lost(&self, execution: &Key, pod: &Key) -> bool {
        self.lock().lost.get(execution) == Some(&pod.1)
    }

    /// A workflow.
    pub fn workflow(&self, key: &Key) -> Option<Arc<Workflow>> {
        self.lock().workflows.get(key).cloned()
    }

    /// A task execution.
    pub fn execution(&self, key: &Key) -> Option<Arc<TaskExecution>> {
        self.lock().executions.get(key).cloned()
    }

    /// A pod; none also if it has ended and been let go.
    pub fn pod(&self, key: &Key) -> Option<Arc<Pod>> {
        self.lock().pods.get(key)?.pod.clone()
    }

    /// All workflows.
    pub fn workflows(&self) -> Vec<Arc<Workflow>> {
        self.lock().workflows.values().cloned().collect()
    }

    /// All task executions.
    pub fn executions(&self) -> Vec<Arc<TaskExecution>> {
        self.lock().executions.values().cloned().collect()
    }

    /// All pods that are of interest.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let state = self.lock();
        let whole = state.pods.values().filter_map(|known| known.pod.clone());
        whole.collect()
    }

    /// The keys of all workflows, in order.
    pub fn workflow_keys(&self) -> Vec<Key> {
        let mut keys: Vec<_> = self.lock().workflows.keys().cloned().collect();
        keys.sort();
        keys
    }

    /// The keys of all task executions, in order.
    pub fn execution_keys(&self) -> Vec<Key> {
        let mut keys: Vec<_> = self.lock().executions.keys().cloned().collect();
        keys.sort();
        keys
    }

    /// The keys and UIDs of all workflows.
    pub fn known_workflows(&self) -> Vec<(Key, String)> {
        uids(&self.lock().workflows)
    }

    /// The keys and UIDs of all task executions.
    pub fn known_executions(&self) -> Vec<(Key, String)> {
        uids(&self.lock().executions)
    }

    /// The keys and UIDs of all pods.
    pub fn known_pods(&self) -> Vec<(Key, String)> {
        let uid = |known: &KnownPod| known.version.uid.to_string();
        let state = self.lock();
        let pods = state.pods.iter();
        pods.map(|(key, known)| (key.clone(), uid(known))).collect()
    }

    /// The pods that say to belong to a task execution of this name.
    pub fn pods_of(&self, execution: &Key) -> Vec<Arc<Pod>> {
        let prefix = format!("{}-", execution.1);
        let named = |pod: &Arc<Pod>| {
            let owners = pod.owner_references().iter();
            let mut ours = owners.filter(|owner| owner.kind == "TaskExecution");
            ours.any(|owner| owner.name == *execution.1)
        };
        self.lock()
            .pods
            .range(sibling(execution, &prefix)..)
            .take_while(|(key, _)| key.0 == execution.0 && key.1.starts_with(&prefix))
            .filter_map(|(_, known)| known.pod.clone())
            .filter(named)
            .collect()
    }

    /// Whether there are pods that say to belong to a task execution of this name.
    pub fn has_pods(&self, execution: &Key) -> bool {
        !self.pods_of(execution).is_empty()
    }

    /// The names of all task executions of a workflow, in order.
    pub fn children(&self, uid: &str) -> Vec<Arc<str>> {
        self.lock()
            .children
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The first of a workflow's task executions by name, from this one on.
    pub fn child_from(&self, uid: &str, first: Bound<&str>) -> Option<Arc<str>> {
        let state = self.lock();
        let children = state.children.get(uid)?;
        let mut from = children.range::<str, _>((first, Bound::Unbounded));
        from.next().cloned()
    }

    /// How many task executions of a workflow still wait for their events to be in NATS.
    pub fn held_children(&self, uid: &str) -> usize {
        self.lock().held.get(uid).copied().unwrap_or(0)
    }

    /// The names of task executions whose phase changed since this was last asked, in order.
    pub fn take_changed(&self, uid: &str) -> Vec<Arc<str>> {
        self.lock()
            .changed
            .remove(uid)
            .into_iter()
            .flatten()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers a changed task execution for its workflow. (One whose workflow is not known is
    /// found when that is taken up.)
    fn mark_changed(&mut self, key: &Key, workflow: &str, uid: &str) {
        let owner = self.workflows.get(&sibling(key, workflow));
        if owner.is_some_and(|owner| owner.metadata.uid.as_deref() == Some(uid)) {
            self.changed
                .entry(uid.to_owned())
                .or_default()
                .insert(key.1.clone());
        }
    }

    fn count_held(
        &mut self,
        uid: &str,
        before: Option<&TaskExecution>,
        after: Option<&TaskExecution>,
    ) {
        let was = before.is_some_and(is_held);
        let is = after.is_some_and(is_held);
        if is && !was {
            *self.held.entry(uid.to_owned()).or_default() += 1;
        } else if was
            && !is
            && let Some(count) = self.held.get_mut(uid)
        {
            *count -= 1;
            if *count == 0 {
                self.held.remove(uid);
            }
        }
    }
}

fn uids<K: Resource>(objects: &BTreeMap<Key, Arc<K>>) -> Vec<(Key, String)> {
    let uid = |object: &Arc<K>| object.meta().uid.clone().unwrap_or_default();
    objects
        .iter()
        .map(|(key, object)| (key.clone(), uid(object)))
        .collect()
}

/// What a workflow looks at in its task executions.
fn shape(execution: &TaskExecution) -> (Option<&str>, TaskPhase, bool) {
    let phase = execution
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default();
    (execution.metadata.uid.as_deref(), phase, is_held(execution))
}

/// A pod, or the place of one that nobody will look at again: without that place, an older
/// version of it would count as news.
#[derive(Debug)]
struct KnownPod {
    version: Version,
    pod: Option<Arc<Pod>>,
}

/// Which object it is, and which version of it.
#[derive(Debug)]
struct Version {
    uid: Box<str>,
    /// resourceVersions of a kind are comparable as integers, also those of different objects: a
    /// promise since Kubernetes 1.35 (KEP-5504), and true of etcd before. One that is no integer
    /// counts as newer.
    number: Option<u64>,
}

impl Version {
    fn of<K: Resource>(object: &K) -> Version {
        let meta = object.meta();
        let number = meta.resource_version.as_deref();
        Version {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            number: number.and_then(|text| text.parse().ok()),
        }
    }

    fn is_newer_than(&self, known: &Version) -> bool {
        match (known.number, self.number) {
            (Some(known), Some(given)) => given > known,
            _ => true,
        }
    }
}

fn is_newer<K: Resource>(known: Option<&K>, given: &K) -> bool {
    known.is_none_or(|known| Version::of(given).is_newer_than(&Version::of(known)))
}

/// Whether an object waits for its events to be in NATS.
pub fn is_held<K: Resource>(object: &K) -> bool {
    object
        .finalizers()
        .iter()
        .any(|name| name == FINALIZER_EVENTS)
}
