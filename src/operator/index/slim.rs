//! What is kept of an object: what decisions read, and no more.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use kube::Resource;

use super::is_held;
use crate::{
    api::{
        ANNOTATION_MIRRORED, LABEL_ATTEMPT, LABEL_INDEX, LABEL_TASK, LABEL_WORKFLOW,
        LABEL_WORKFLOW_UID, TaskExecution, Workflow,
    },
    engine::{
        attempt,
        outcome::{self, PodState},
    },
};

/// The labels of a pod that decisions read.
const READ_LABELS: [&str; 5] = [
    LABEL_ATTEMPT,
    LABEL_INDEX,
    LABEL_TASK,
    LABEL_WORKFLOW,
    LABEL_WORKFLOW_UID,
];

/// The conditions of a pod that decisions read.
const READ_CONDITIONS: [&str; 2] = ["PodScheduled", "DisruptionTarget"];

/// About half of an object's metadata.
fn drop_managed_fields<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// A finished, mirrored run is never written again: only its place is kept.
pub(super) fn slim_workflow(mut workflow: Workflow) -> Workflow {
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

/// Of a finished, mirrored execution its place and its result are kept.
pub(super) fn slim_execution(mut execution: TaskExecution) -> TaskExecution {
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
        execution.metadata.labels = None;
        if let Some(annotations) = &mut execution.metadata.annotations {
            annotations.retain(|name, _| name == ANNOTATION_MIRRORED);
        }
        execution.metadata.owner_references = None;
        if let Some(status) = &mut execution.status {
            status.transitions = Vec::new();
            status.attempts = Vec::new();
            status.conditions = Vec::new();
            status.message = None;
            status.mirror = None;
        }
    }
    execution
}

/// Decisions read a pod's place and owner, how its containers are, and of its spec only what is
/// kept here.
pub(super) fn slim_pod(mut pod: Pod) -> Pod {
    drop_managed_fields(&mut pod);
    pod.metadata.annotations = None;
    if let Some(labels) = &mut pod.metadata.labels {
        labels.retain(|label, _| READ_LABELS.contains(&label.as_str()));
    }
    pod.spec = pod.spec.map(|spec| PodSpec {
        node_name: spec.node_name,
        containers: spec.containers.into_iter().map(slim_container).collect(),
        init_containers: spec
            .init_containers
            .map(|inits| inits.into_iter().map(slim_container).collect()),
        ..PodSpec::default()
    });
    pod.status = pod.status.map(slim_status);
    pod
}

fn slim_status(status: PodStatus) -> PodStatus {
    let containers = |list: Option<Vec<ContainerStatus>>| {
        list.map(|list| list.into_iter().map(slim_container_status).collect())
    };
    let mut conditions = status.conditions;
    if let Some(conditions) = &mut conditions {
        conditions.retain(|condition| READ_CONDITIONS.contains(&condition.type_.as_str()));
        conditions.shrink_to_fit();
    }
    PodStatus {
        phase: status.phase,
        reason: status.reason,
        message: status.message,
        start_time: status.start_time,
        conditions,
        container_statuses: containers(status.container_statuses),
        init_container_statuses: containers(status.init_container_statuses),
        ..PodStatus::default()
    }
}

fn slim_container_status(status: ContainerStatus) -> ContainerStatus {
    ContainerStatus {
        name: status.name,
        state: status.state,
        ..ContainerStatus::default()
    }
}

/// Whether nobody will look at a pod again: it has ended, and its result was taken from it.
pub(super) fn is_done(pod: &Pod) -> bool {
    let ended = matches!(outcome::observe(pod, None), PodState::Ended(ended) if !ended.lingers);
    ended && !attempt::is_held(pod)
}

/// The last word of the kubelet, which deletes a pod for good, moves the time of its deletion to
/// the present. What counts is when somebody first asked for it.
pub(super) fn keep_first_deletion(known: &Pod, pod: &mut Pod) {
    let (known, given) = (&known.metadata, &mut pod.metadata);
    if known.uid != given.uid || given.deletion_timestamp.is_none() {
        return;
    }
    if let Some(first) = outcome::deletion_asked(known)
        && outcome::deletion_asked(given).is_some_and(|asked| asked > first)
    {
        given.deletion_timestamp = known.deletion_timestamp.clone();
        given.deletion_grace_period_seconds = known.deletion_grace_period_seconds;
    }
}

fn slim_container(container: Container) -> Container {
    Container {
        name: container.name,
        resources: container.resources,
        ..Container::default()
    }
}
