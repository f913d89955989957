//! What the operator knows of the cluster: fed by the watches and by the answers to its own
//! writes, so that it reads what it wrote.
//!
//! Plain data behind one lock; every method is short. Older versions never replace newer ones.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::{Resource, ResourceExt};

use crate::api::{FINALIZER_EVENTS, TaskExecution, TaskPhase, Workflow};

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
    workflows: HashMap<Key, Arc<Workflow>>,
    executions: HashMap<Key, Arc<TaskExecution>>,
    pods: HashMap<Key, Arc<Pod>>,
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

    /// Takes in a pod; false if it was known.
    pub fn apply_pod(&self, pod: Pod) -> bool {
        let key = key_of(&pod);
        let mut state = self.lock();
        if !is_newer(state.pods.get(&key).map(AsRef::as_ref), &pod) {
            return false;
        }
        state.pods.insert(key, Arc::new(slim_pod(pod)));
        true
    }

    /// A pod is gone.
    pub fn delete_pod(&self, key: &Key, uid: Option<&str>) {
        let mut state = self.lock();
        if state
            .pods
            .get(key)
            .is_some_and(|known| uid.is_none() || known.metadata.uid.as_deref() == uid)
        {
            state.pods.remove(key);
        }
    }

    /// A workflow.
    pub fn workflow(&self, key: &Key) -> Option<Arc<Workflow>> {
        self.lock().workflows.get(key).cloned()
    }

    /// A task execution.
    pub fn execution(&self, key: &Key) -> Option<Arc<TaskExecution>> {
        self.lock().executions.get(key).cloned()
    }

    /// A pod.
    pub fn pod(&self, key: &Key) -> Option<Arc<Pod>> {
        self.lock().pods.get(key).cloned()
    }

    /// All workflows.
    pub fn workflows(&self) -> Vec<Arc<Workflow>> {
        self.lock().workflows.values().cloned().collect()
    }

    /// All task executions.
    pub fn executions(&self) -> Vec<Arc<TaskExecution>> {
        self.lock().executions.values().cloned().collect()
    }

    /// All pods.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.lock().pods.values().cloned().collect()
    }

    /// The keys of all workflows.
    pub fn workflow_keys(&self) -> Vec<Key> {
        self.lock().workflows.keys().cloned().collect()
    }

    /// The keys of all task executions.
    pub fn execution_keys(&self) -> Vec<Key> {
        self.lock().executions.keys().cloned().collect()
    }

    /// The keys of all pods.
    pub fn pod_keys(&self) -> Vec<Key> {
        self.lock().pods.keys().cloned().collect()
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

/// What a workflow looks at in its task executions.
fn shape(execution: &TaskExecution) -> (Option<&str>, TaskPhase, bool) {
    let phase = execution
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default();
    (execution.metadata.uid.as_deref(), phase, is_held(execution))
}

/// resourceVersions are comparable as integers: a promise since Kubernetes 1.35 (KEP-5504), and
/// true of etcd before. One that is no integer counts as newer.
fn is_newer<K: Resource>(known: Option<&K>, given: &K) -> bool {
    let Some(known) = known else { return true };
    if known.meta().uid != given.meta().uid {
        return true;
    }
    let version = |object: &K| {
        object
            .resource_version()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match (version(known), version(given)) {
        (Some(known), Some(given)) => given > known,
        _ => true,
    }
}

/// About half of an object's metadata.
fn drop_managed_fields<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// A finished, mirrored run is never written again: only its place is kept.
fn slim_workflow(mut workflow: Workflow) -> Workflow {
    drop_managed_fields(&mut workflow);
    let ended = workflow
        .status
        .as_ref()
        .is_some_and(|status| status.phase.is_final());
    if ended && !is_held(&workflow) {
        workflow.spec.tasks = Vec::new();
        workflow.spec.inputs = None;
        if let Some(status) = &mut workflow.status {
            status.tasks = Vec::new();
            status.transitions = Vec::new();
            status.outputs = None;
        }
    }
    workflow
}

fn slim_execution(mut execution: TaskExecution) -> TaskExecution {
    drop_managed_fields(&mut execution);
    let ended = execution
        .status
        .as_ref()
        .is_some_and(|status| status.phase.is_final());
    if ended {
        execution.spec.container = None;
        execution.spec.pod_template = None;
    }
    if ended && !is_held(&execution) {
        execution.spec.inputs = None;
        if let Some(status) = &mut execution.status {
            status.transitions = Vec::new();
            status.attempts = Vec::new();
            status.conditions = Vec::new();
        }
    }
    execution
}

/// Decisions read a pod's metadata and status, and of its spec only what is kept here.
fn slim_pod(mut pod: Pod) -> Pod {
    drop_managed_fields(&mut pod);
    pod.metadata.annotations = None;
    pod.spec = pod.spec.map(|spec| PodSpec {
        node_name: spec.node_name,
        containers: spec.containers.into_iter().map(slim_container).collect(),
        init_containers: spec
            .init_containers
            .map(|inits| inits.into_iter().map(slim_container).collect()),
        ..PodSpec::default()
    });
    pod
}

fn slim_container(container: Container) -> Container {
    Container {
        name: container.name,
        resources: container.resources,
        ..Container::default()
    }
}

/// Whether an object waits for its events to be in NATS.
pub fn is_held<K: Resource>(object: &K) -> bool {
    object
        .finalizers()
        .iter()
        .any(|name| name == FINALIZER_EVENTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn workflow() -> Workflow {
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w", "namespace": "n", "uid": "wu", "resourceVersion": "1"},
            "spec": {"tasks": []},
        }))
        .unwrap()
    }

    fn execution(version: u64, phase: &str, finalizers: Value) -> TaskExecution {
        serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "TaskExecution",
            "metadata": {"name": "t", "namespace": "n", "uid": "tu",
                         "resourceVersion": version.to_string(), "finalizers": finalizers},
            "spec": {
                "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t", "container": {"image": "x"},
                "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
                "infrastructureRetries": 1, "imagePullTimeout": "10m",
            },
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn key() -> Key {
        ("n".into(), "t".into())
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let index = Index::default();
        assert_eq!(
            index.apply_execution(execution(9, "Running", json!([]))),
            Change::Notable
        );
        assert_eq!(
            index.apply_execution(execution(10, "Running", json!([]))),
            Change::Minor
        );
        assert_eq!(
            index.apply_execution(execution(9, "Pending", json!([]))),
            Change::Stale
        );
        let known = index.execution(&key()).unwrap();
        assert_eq!(known.resource_version().as_deref(), Some("10"));
    }

    #[test]
    fn another_object_of_the_same_name_is_newer_whatever_its_version() {
        let index = Index::default();
        index.apply_execution(execution(9, "Running", json!([])));
        let mut other = execution(1, "Pending", json!([]));
        other.metadata.uid = Some("other".to_owned());
        assert_eq!(index.apply_execution(other), Change::Notable);
        assert!(
            index.delete_execution(&key(), Some("tu")).is_none(),
            "the first one is not there"
        );
        assert!(index.execution(&key()).is_some());
    }

    #[test]
    fn a_run_knows_which_of_its_tasks_changed_and_how_many_are_held() {
        let index = Index::default();
        index.apply_workflow(workflow());
        let held = json!([FINALIZER_EVENTS]);
        index.apply_execution(execution(1, "Running", held.clone()));
        assert_eq!(index.take_changed("wu").len(), 1);
        assert_eq!(index.take_changed("wu").len(), 0);
        index.apply_execution(execution(2, "Succeeded", held));
        assert_eq!(index.held_children("wu"), 1);
        index.apply_execution(execution(3, "Succeeded", json!([])));
        assert_eq!(index.held_children("wu"), 0);
        assert_eq!(index.take_changed("wu").len(), 1);
    }

    #[test]
    fn nothing_is_remembered_for_a_run_that_is_not_known() {
        let index = Index::default();
        index.apply_execution(execution(1, "Running", json!([FINALIZER_EVENTS])));
        index.delete_execution(&key(), None);
        assert_eq!(index.take_changed("wu").len(), 0);
        assert_eq!(
            (index.held_children("wu"), index.children("wu").len()),
            (0, 0)
        );
    }
}
