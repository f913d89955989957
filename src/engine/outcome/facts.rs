//! A pod's status, read with all that may be missing in it.

use k8s_openapi::{
    api::core::v1::{
        ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod, PodCondition,
        PodStatus,
    },
    apimachinery::pkg::apis::meta::v1,
};

use super::{MAIN_CONTAINER, PodState, STARTING, WaitKind};
use crate::api::Time;

/// What the kubelet keeps of one container's termination message, and of a whole pod's.
const CONTAINER_MESSAGE_LIMIT: usize = 4096;
const POD_MESSAGE_LIMIT: usize = 12_288;

/// By how much the clocks of a node and the API server may differ (with NTP, and whole seconds).
const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(2);

/// Waiting reasons that tell nothing.
const USUAL_REASONS: [&str; 3] = ["", STARTING, "PodInitializing"];

/// Exit codes of a container that a signal ended: 128 and the signal's number.
const SIGKILLED: i32 = 137;
const SIGTERMED: i32 = 143;

/// When somebody asked for a pod's deletion.
pub(super) fn deletion_asked(metadata: &v1::ObjectMeta) -> Option<Time> {
    let due = metadata.deletion_timestamp.as_ref()?;
    let grace = metadata.deletion_grace_period_seconds.unwrap_or(0);
    let asked = due.0.checked_sub(jiff::SignedDuration::from_secs(grace));
    asked.ok().map(Time)
}

/// What can be read of a pod.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    status: Option<&'a PodStatus>,
    main: Option<&'a ContainerStatus>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(pod: &'a Pod) -> Self {
        let status = pod.status.as_ref();
        let main = containers(status).find(|container| container.name == MAIN_CONTAINER);
        Facts { pod, status, main }
    }

    /// The pod's phase as it is written; empty if it has none.
    pub(super) fn phase(&self) -> &'a str {
        text(self.status.and_then(|status| status.phase.as_ref()))
    }

    /// The pod's own reason: why the node or the cluster ended it.
    pub(super) fn reason(&self) -> &'a str {
        text(self.status.and_then(|status| status.reason.as_ref()))
    }

    /// What belongs to the pod's own reason.
    pub(super) fn reason_message(&self) -> &'a str {
        text(self.status.and_then(|status| status.message.as_ref()))
    }

    fn is_terminal(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// The end of the task's container.
    pub(super) fn terminated(&self) -> Option<&'a ContainerStateTerminated> {
        self.main?.state.as_ref()?.terminated.as_ref()
    }

    /// The exit code of the task's container. (Of one that it lost, or that never ran, the
    /// kubelet makes up 137.)
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.terminated()
            .filter(|main| main.reason.as_deref() != Some("ContainerStatusUnknown"))
            .map(|main| main.exit_code)
    }

    /// Whether the task did its work, its outputs apart.
    pub(super) fn has_succeeded(&self) -> bool {
        match self.terminated() {
            Some(main) => main.exit_code == 0,
            None => self.phase() == "Succeeded",
        }
    }

    /// The termination message of the task's container: its outputs, or its log's tail.
    pub(super) fn message(&self) -> &'a str {
        text(self.terminated().and_then(|main| main.message.as_ref()))
    }

    /// A termination message of so many bytes may have been cut by the kubelet.
    pub(super) fn message_limit(&self) -> usize {
        let count = self.pod.spec.as_ref().map_or(1, |spec| {
            spec.containers.len()
                + spec.init_containers.as_ref().map_or(0, Vec::len)
                + spec.ephemeral_containers.as_ref().map_or(0, Vec::len)
        });
        CONTAINER_MESSAGE_LIMIT.min(POD_MESSAGE_LIMIT / count.max(1))
    }

    /// Since when the task's container runs, or is thought to run because how it ended is not
    /// known yet.
    pub(super) fn running_since(&self) -> Option<Time> {
        let state = self.main?.state.as_ref()?;
        if state.running.is_none() && state.terminated.is_none() {
            return None;
        }
        Some(self.started_at().unwrap_or_else(|| self.accepted_at()))
    }

    /// When the task's container started. (An unset time arrives as the year 1970.)
    pub(super) fn started_at(&self) -> Option<Time> {
        let state = self.main?.state.as_ref()?;
        let running = state
            .running
            .as_ref()
            .and_then(|run| run.started_at.as_ref());
        let terminated = state
            .terminated
            .as_ref()
            .and_then(|end| end.started_at.as_ref());
        terminated.or(running).and_then(set)
    }

    /// When the task's container ended.
    pub(super) fn finished_at(&self) -> Option<Time> {
        self.terminated()?.finished_at.as_ref().and_then(set)
    }

    /// When a node took the pod, or as close to that as can be known.
    fn accepted_at(&self) -> Time {
        let scheduled = self
            .condition("PodScheduled")
            .filter(|condition| condition.status == "True")
            .and_then(|condition| condition.last_transition_time.as_ref());
        let started = self.status.and_then(|status| status.start_time.as_ref());
        scheduled
            .or(started)
            .and_then(set)
            .unwrap_or_else(|| self.created_at())
    }

    /// When the pod was created; the epoch for an object that no API server stored.
    fn created_at(&self) -> Time {
        let created = self.pod.metadata.creation_timestamp.as_ref();
        created.map_or(Time(jiff::Timestamp::UNIX_EPOCH), |time| Time(time.0))
    }

    fn condition(&self, kind: &str) -> Option<&'a PodCondition> {
        let conditions = self.status?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind)
    }

    /// The cluster's word that it ended the pod.
    pub(super) fn disruption(&self) -> Option<&'a PodCondition> {
        self.condition("DisruptionTarget")
            .filter(|condition| condition.status == "True")
    }

    /// Whether the task's container had ended before the cluster came to end its pod. The kubelet
    /// dates its own disruptions after the fact, but it never disrupts a pod that has ended.
    pub(super) fn ended_before_disruption(&self, disruption: &PodCondition) -> bool {
        disruption.reason.as_deref() != Some("TerminationByKubelet")
            && self.ended_before(disruption.last_transition_time.as_ref())
    }

    /// Whether somebody asked for the pod's deletion.
    pub(super) fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether the task's container had ended before somebody asked for the pod's deletion. One
    /// that a signal ended is taken for stopped if that time is not known.
    pub(super) fn ended_before_deletion(&self) -> bool {
        let asked = deletion_asked(&self.pod.metadata).map(|asked| v1::Time(asked.0));
        self.ended_before(asked.as_ref()) && !(self.deletion_is_final() && self.ended_by_signal())
    }

    /// Whether the pod is deleted without grace, which is how the kubelet removes what it has
    /// stopped: that may have moved the time of the deletion to the present.
    fn deletion_is_final(&self) -> bool {
        self.pod.metadata.deletion_grace_period_seconds == Some(0)
    }

    /// Whether the task's container ended as one does that somebody stops.
    fn ended_by_signal(&self) -> bool {
        self.terminated().is_some_and(|main| {
            matches!(main.exit_code, SIGKILLED | SIGTERMED)
                && main.reason.as_deref() != Some("OOMKilled")
        })
    }

    fn ended_before(&self, time: Option<&v1::Time>) -> bool {
        let finished = self.finished_at();
        finished
            .zip(time)
            .is_some_and(|(finished, time)| finished.after(CLOCK_SKEW) < Time(time.0))
    }

    /// Whether nothing more is to be learned about how the task ended.
    pub(super) fn has_ended(&self, stopped: bool) -> bool {
        if self.is_terminal() {
            return true;
        }
        match self.terminated() {
            Some(main) => {
                main.exit_code == 0
                    || stopped
                    || self.is_explained()
                    || self.others_live()
                    || self.was_never_started()
            }
            // Deleted before it had a node: no kubelet will ever say a word about it.
            None => self.is_deleted() && !self.has_node(),
        }
    }

    /// Whether the runtime could not start the task's container, which explains its end.
    fn was_never_started(&self) -> bool {
        let reason = self.terminated().and_then(|main| main.reason.as_deref());
        self.started_at().is_none() && reason == Some("StartError")
    }

    fn is_explained(&self) -> bool {
        self.is_deleted() || self.disruption().is_some()
    }

    /// Whether something of the pod would go on although the task is over.
    pub(super) fn lingers(&self) -> bool {
        let main_lives = self.terminated().is_none() && self.has_node();
        !self.is_terminal() && (main_lives || self.others_live())
    }

    /// Whether a container beside the task's has not ended. Sidecars in the sense of Kubernetes
    /// (restartable init containers) do not count: the kubelet ends them.
    fn others_live(&self) -> bool {
        containers(self.status)
            .filter(|container| container.name != MAIN_CONTAINER)
            .any(|container| {
                container
                    .state
                    .as_ref()
                    .is_none_or(|state| state.terminated.is_none())
            })
    }

    fn has_node(&self) -> bool {
        self.pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some())
    }

    /// The failed init container, with its end.
    pub(super) fn failed_init(&self) -> Option<(&'a str, &'a ContainerStateTerminated)> {
        init_containers(self.status).find_map(|container| {
            let end = container.state.as_ref()?.terminated.as_ref()?;
            (end.exit_code != 0).then_some((container.name.as_str(), end))
        })
    }

    /// The waiting states, the task's own container first.
    pub(super) fn waiting_containers(&self) -> impl Iterator<Item = &'a ContainerStateWaiting> {
        self.main
            .into_iter()
            .chain(init_containers(self.status))
            .chain(containers(self.status))
            .filter_map(|container| container.state.as_ref()?.waiting.as_ref())
    }

    /// What a pod waits for whose container does not run yet.
    pub(super) fn waiting(&self) -> PodState {
        if !self.has_node() {
            return self.waiting_for_node();
        }
        let telling = self
            .waiting_containers()
            .find(|waiting| !USUAL_REASONS.contains(&text(waiting.reason.as_ref())));
        let reason = telling.map_or(STARTING, |waiting| text(waiting.reason.as_ref()));
        let message = text(telling.and_then(|waiting| waiting.message.as_ref()));
        PodState::Waiting {
            kind: if is_about_image(reason) {
                WaitKind::Image
            } else {
                WaitKind::Starting
            },
            reason: reason.to_owned(),
            message: if message.is_empty() {
                self.unexplained()
            } else {
                message.to_owned()
            },
            since: self.accepted_at(),
        }
    }

    /// The kubelet says why a volume or the network does not come only in events.
    fn unexplained(&self) -> String {
        let name = text(self.pod.metadata.name.as_ref());
        format!("the node prepares volumes, network and image; see kubectl describe pod {name}")
    }

    fn waiting_for_node(&self) -> PodState {
        let scheduling = self.condition("PodScheduled");
        let reason = text(scheduling.and_then(|condition| condition.reason.as_ref()));
        let message = text(scheduling.and_then(|condition| condition.message.as_ref()));
        let or = |given: &str, usual: &str| if given.is_empty() { usual } else { given }.to_owned();
        PodState::Waiting {
            kind: WaitKind::Scheduling,
            reason: or(reason, "Scheduling"),
            message: or(message, "the pod waits for a node"),
            since: self.created_at(),
        }
    }
}

fn is_about_image(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "InvalidImageName"
            | "RegistryUnavailable"
            | "SignatureValidationFailed"
    )
}

fn containers(status: Option<&PodStatus>) -> impl Iterator<Item = &ContainerStatus> {
    status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten()
}

fn init_containers(status: Option<&PodStatus>) -> impl Iterator<Item = &ContainerStatus> {
    status
        .and_then(|status| status.init_container_statuses.as_ref())
        .into_iter()
        .flatten()
}

fn text(text: Option<&String>) -> &str {
    text.map(String::as_str).unwrap_or_default()
}

fn set(time: &v1::Time) -> Option<Time> {
    (time.0 > jiff::Timestamp::UNIX_EPOCH).then_some(Time(time.0))
}
