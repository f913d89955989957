//! Pod statuses as scheduler, kubelet and controllers write them. Their times are whole seconds.

use compozy::{api::Time, engine::outcome::MAIN_CONTAINER};
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, Pod, PodCondition, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1,
};

/// What the kubelet keeps of a termination message.
const MESSAGE_LIMIT: usize = 4096;

/// The second container of a pod that has one.
const INJECTED: &str = "injected";

/// Where the task's container is.
pub enum Main {
    /// The kubelet has not said a word.
    Unknown,
    /// It waits, for this reason.
    Waiting(String),
    /// It runs.
    Running(Time),
    /// It has ended.
    Terminated(Time),
}

/// How a container ends.
pub struct End {
    code: i32,
    reason: String,
    message: String,
    at: Time,
}

impl End {
    pub fn new(code: i32, reason: &str, at: Time) -> End {
        End {
            code,
            reason: reason.to_owned(),
            message: String::new(),
            at,
        }
    }

    /// With this termination message, as much as there is room for.
    pub fn saying(mut self, message: &str) -> End {
        let end = message.floor_char_boundary(MESSAGE_LIMIT);
        message[..end].clone_into(&mut self.message);
        self
    }
}

/// A time as Kubernetes writes it.
pub fn seconds(time: Time) -> v1::Time {
    v1::Time(jiff::Timestamp::from_second(time.0.as_second()).unwrap_or_default())
}

pub fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub fn is_bound(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some())
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten()
}

pub fn main_state(pod: &Pod) -> Main {
    let main = containers(pod).find(|container| container.name == MAIN_CONTAINER);
    let Some(state) = main.and_then(|main| main.state.as_ref()) else {
        return Main::Unknown;
    };
    if let Some(end) = &state.terminated {
        return Main::Terminated(time(end.finished_at.as_ref()));
    }
    if let Some(running) = &state.running {
        return Main::Running(time(running.started_at.as_ref()));
    }
    let reason = state
        .waiting
        .as_ref()
        .and_then(|waiting| waiting.reason.clone());
    Main::Waiting(reason.unwrap_or_default())
}

/// Whether a container beside the task's runs.
pub fn others_run(pod: &Pod) -> bool {
    containers(pod)
        .filter(|container| container.name != MAIN_CONTAINER)
        .any(|container| {
            container
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_some())
        })
}

fn time(time: Option<&v1::Time>) -> Time {
    Time(time.map(|time| time.0).unwrap_or_default())
}

fn now(pod: &Pod) -> PodStatus {
    pod.status.clone().unwrap_or_default()
}

fn set_condition(status: &mut PodStatus, condition: PodCondition) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|known| known.type_ != condition.type_);
    conditions.push(condition);
}

fn scheduled(holds: bool, at: Time) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(seconds(at)),
        ..PodCondition::default()
    }
}

pub fn disruption(reason: &str, message: &str, at: Time) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(seconds(at)),
        ..PodCondition::default()
    }
}

pub fn unschedulable(pod: &Pod, at: Time, message: &str) -> PodStatus {
    let mut status = now(pod);
    status.phase = Some("Pending".to_owned());
    let condition = PodCondition {
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        ..scheduled(false, at)
    };
    set_condition(&mut status, condition);
    status
}

pub fn bound(pod: &Pod, at: Time) -> PodStatus {
    let mut status = now(pod);
    status.phase = Some("Pending".to_owned());
    set_condition(&mut status, scheduled(true, at));
    status
}

/// A container's status in this state.
fn container(name: &str, state: ContainerState) -> ContainerStatus {
    let running = state.running.is_some();
    ContainerStatus {
        name: name.to_owned(),
        image: "busybox:1.36".to_owned(),
        ready: running,
        started: Some(running),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

fn with_main(mut status: PodStatus, state: ContainerState) -> PodStatus {
    let others = status.container_statuses.take().into_iter().flatten();
    let others = others.filter(|container| container.name != MAIN_CONTAINER);
    let main = std::iter::once(container(MAIN_CONTAINER, state));
    status.container_statuses = Some(main.chain(others).collect());
    status
}

pub fn creating(pod: &Pod, at: Time) -> PodStatus {
    let mut status = now(pod);
    status.start_time = Some(seconds(at));
    with_main(status, waits("ContainerCreating", ""))
}

pub fn waiting(pod: &Pod, reason: &str, message: &str) -> PodStatus {
    with_main(now(pod), waits(reason, message))
}

fn waits(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..ContainerState::default()
    }
}

fn runs(at: Time) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning {
            started_at: Some(seconds(at)),
        }),
        ..ContainerState::default()
    }
}

fn ended(end: &End, started: Option<v1::Time>) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: end.code,
            reason: Some(end.reason.clone()),
            message: (!end.message.is_empty()).then(|| end.message.clone()),
            started_at: started,
            finished_at: Some(seconds(end.at)),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

pub fn running(pod: &Pod, at: Time, injected: bool) -> PodStatus {
    let mut status = with_main(now(pod), runs(at));
    status.phase = Some("Running".to_owned());
    if injected {
        let other = container(INJECTED, runs(at));
        status
            .container_statuses
            .get_or_insert_default()
            .push(other);
    }
    status
}

/// The task's container has ended; the pod's phase is said later.
pub fn terminated(pod: &Pod, end: &End) -> PodStatus {
    let started = match main_state(pod) {
        Main::Running(since) => Some(seconds(since)),
        _ => None,
    };
    with_main(now(pod), ended(end, started))
}

/// A pod that is deleted before its container ran: the kubelet makes an end up.
pub fn never_ran(pod: &Pod, at: Time) -> PodStatus {
    let text = "The container could not be located when the pod was terminated";
    let end = End::new(137, "ContainerStatusUnknown", at).saying(text);
    let mut status = with_main(now(pod), ended(&end, None));
    status.phase = Some("Failed".to_owned());
    status
}

/// All containers have ended, and with them the pod.
pub fn over(pod: &Pod, at: Time) -> PodStatus {
    let mut status = now(pod);
    for container in status.container_statuses.iter_mut().flatten() {
        let since = container
            .state
            .as_ref()
            .and_then(|state| state.running.clone());
        if let Some(since) = since {
            let end = End::new(0, "Completed", at);
            container.state = Some(ended(&end, since.started_at));
        }
    }
    let main = status.container_statuses.iter().flatten();
    let mut ends = main.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    let good = ends.all(|end| end.exit_code == 0);
    status.phase = Some(if good { "Succeeded" } else { "Failed" }.to_owned());
    status
}

pub fn failed(pod: &Pod, reason: &str, message: &str) -> PodStatus {
    let mut status = now(pod);
    status.phase = Some("Failed".to_owned());
    status.reason = Some(reason.to_owned());
    status.message = Some(message.to_owned());
    status
}

pub fn disrupted(pod: &Pod, reason: &str, message: &str, at: Time) -> PodStatus {
    let mut status = now(pod);
    set_condition(&mut status, disruption(reason, message, at));
    status
}

/// An init container that is not ours failed.
pub fn init_failed(pod: &Pod, at: Time) -> PodStatus {
    let end = End::new(1, "Error", at).saying("no route to the mesh");
    let mut status = with_main(now(pod), waits("PodInitializing", ""));
    status.init_container_statuses =
        Some(vec![container("mesh-init", ended(&end, Some(seconds(at))))]);
    status.phase = Some("Failed".to_owned());
    status
}
