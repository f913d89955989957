//! The pods of a task execution: whose they are, of which attempt, and which of them go.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Plan, Step};
use crate::{
    api::{FINALIZER_OUTCOME, LABEL_ATTEMPT, TaskExecution},
    engine::{
        names,
        outcome::{self, PodState},
    },
};

/// The first of the pods of recorded attempts that is held goes. One that lives on is deleted: the
/// deletion that belongs to the record may have got lost with the operator, or a request of a
/// former leader has created the pod too late.
pub(super) fn let_go<'a>(
    pods: impl Iterator<Item = (u32, &'a Pod)>,
    te: &TaskExecution,
) -> Option<Plan> {
    let mut held = pods.filter(|(_, pod)| is_held(pod));
    let (attempt, pod) = held.next()?;
    let release = Step::ReleasePod(attempt);
    let deleted = pod.metadata.deletion_timestamp.is_some();
    if lingers(pod) && !deleted && is_owned(pod, te) {
        return Some(Plan::step(Step::DeletePod(attempt)).then(release));
    }
    Some(Plan::step(release))
}

/// Whether a pod still carries our finalizer.
pub fn is_held(pod: &Pod) -> bool {
    pod.finalizers()
        .iter()
        .any(|name| name == FINALIZER_OUTCOME)
}

/// Whether something of a pod still runs.
pub(super) fn lingers(pod: &Pod) -> bool {
    match outcome::observe(pod, None) {
        PodState::Ended(ended) => ended.lingers,
        PodState::Running { .. } | PodState::Waiting { .. } => true,
    }
}

/// Whether a pod of the right name is really this attempt's. (One that lost its label is taken for
/// what its name says.)
pub fn is_ours(pod: &Pod, te: &TaskExecution, attempt: u32) -> bool {
    let label = pod.labels().get(LABEL_ATTEMPT);
    is_owned(pod, te) && label.is_none_or(|label| *label == attempt.to_string())
}

/// Whether a pod belongs to this very execution.
pub fn is_owned(pod: &Pod, te: &TaskExecution) -> bool {
    let uid = te.metadata.uid.as_deref();
    let mut owners = pod.owner_references().iter();
    owners.any(|owner| Some(owner.uid.as_str()) == uid)
}

/// Of which attempt a pod is, by its name.
pub(super) fn attempt_of(pod: &Pod, te: &TaskExecution) -> Option<u32> {
    let name = pod.metadata.name.as_deref()?;
    let of = te.metadata.name.as_deref()?;
    let number = name.strip_prefix(of)?.strip_prefix('-')?.parse().ok()?;
    (names::pod_name(of, number) == name).then_some(number)
}
