//! From an executor pod's status to what it means for the attempt: one total function.
//!
//! Whatever a status says, it means one of three things, and each has an end of its own or one
//! that the user sets:
//!
//! | state | bounded by |
//! |---|---|
//! | Waiting, `Scheduling` | the task's `deadline`, the run's `timeout`: a cluster may take its time, and the reason is visible |
//! | Waiting, `Image` | `imagePullTimeout`, then `IMAGE_PULL` |
//! | Waiting, `Starting` | `imagePullTimeout` too, then `START_ERROR`: volumes, Secrets and sandboxes that never come |
//! | Running | the program itself and the attempt's `timeout`; once a deletion is asked for, the kubelet, and on a lost node the node's removal |
//! | Ended | final |
//!
//! The first row that fits decides how an attempt ended:
//!
//! | seen | means |
//! |---|---|
//! | a recorded `stopping` of this attempt | Stopped |
//! | `main` exited 0 (whatever befell the pod then), or phase Succeeded | success, or `OUTPUTS_TOO_LARGE`, `INVALID_OUTPUTS` |
//! | `main` can never start: an image that is root under `runAsNonRoot`, an image name that is none | `IMAGE_RUNS_AS_ROOT`, `IMAGE_PULL`, at once and not retried |
//! | pod reason DeadlineExceeded | Application `TIMEOUT` |
//! | pod reason Evicted for a limit of its own (ephemeral storage, an emptyDir's size) | Application `EVICTED` |
//! | pod reason Evicted, Preempting | Infrastructure `EVICTED` |
//! | pod reason NodeLost, NodeShutdown, Terminated, Shutdown | Infrastructure `NODE_LOST` |
//! | pod reason AppArmor, SysctlForbidden and the like: the node cannot do what the spec asks | Application `START_ERROR`, not retried |
//! | any other pod reason (OutOfcpu, NodeAffinity, UnexpectedAdmissionError, …) | Infrastructure `POD_REFUSED`, `EVICTED` if it had run |
//! | condition DisruptionTarget, unless `main` had ended before | Infrastructure `NODE_LOST` (DeletionByPodGC), else `EVICTED` |
//! | deleted by somebody, unless `main` had ended before (by a signal, with no word of when the deletion was asked for: that is the deletion's) | Infrastructure `POD_DELETED`, whatever the exit code: a program may answer SIGTERM as it likes |
//! | container reason OOMKilled | Application `OOM_KILLED` |
//! | container reason ContainerStatusUnknown, Unknown: kubelet or runtime lost it; 137 is then made up | Infrastructure `NODE_LOST` |
//! | container reason StartError, ContainerCannotRun, … | Application `START_ERROR` |
//! | an `error` object in the outputs file | Application, with that error |
//! | exit code 137 and no reason | Application `KILLED`: most often the kernel killed a child for memory, which would repeat |
//! | any other exit code | Application `TASK_FAILED` with the log's tail |
//! | `main` never ran, an init container (an admission webhook's; tasks have none) failed | Infrastructure `START_ERROR` |
//! | phase Failed and no word of `main` | Infrastructure `NODE_LOST` |
//!
//! `main` exiting 0 is enough; the kubelet says the pod's phase about a second later. Any other
//! end of `main` alone is not: why the pod was killed comes only with the final phase. Until then
//! it counts as running, unless a deletion or disruption already says why, the runtime could not
//! start it, or other containers (a webhook's) live on and the phase may never come.

mod facts;
mod failure;
mod message;
#[cfg(test)]
mod tests;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;

use crate::api::{ErrorCode, ErrorInfo, FailureClass, LABEL_ATTEMPT, Stopping, Time};
use facts::Facts;
use failure::Failure;

pub(in crate::engine) use message::{CODE as LONGEST_CODE, as_object, kind, normalise};

/// The name of the container that runs the task.
pub const MAIN_CONTAINER: &str = "main";

/// The reason of a pod that has a node and of which nothing worse is known.
pub const STARTING: &str = "ContainerCreating";

/// What a pod's status means for its attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum PodState {
    /// The task's container does not run yet.
    Waiting {
        /// What it waits for.
        kind: WaitKind,
        /// Why, in one word.
        reason: String,
        /// Why, for a person.
        message: String,
        /// Since when; bounds count from here.
        since: Time,
    },
    /// The task's container runs, or how it ended is not known yet.
    Running {
        /// When it started.
        since: Time,
    },
    /// It is over.
    Ended(Ended),
}

/// What a pod waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// A node.
    Scheduling,
    /// An image that could not be pulled so far.
    Image,
    /// Anything else before the container runs: volumes, network, Secrets, a pull under way.
    Starting,
}

impl WaitKind {
    /// What an attempt ends with that waited longer than `imagePullTimeout`; none if that does
    /// not bound it.
    pub fn overdue(self) -> Option<ErrorCode> {
        match self {
            WaitKind::Scheduling => None,
            WaitKind::Image => Some(ErrorCode::ImagePull),
            WaitKind::Starting => Some(ErrorCode::StartError),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// When the task's container started, if it did and somebody saw it.
    pub started_at: Option<Time>,
    /// When it ended, if somebody saw it.
    pub finished_at: Option<Time>,
    /// Its exit code, if somebody saw it.
    pub exit_code: Option<i32>,
    /// What came of it.
    pub outcome: Outcome,
    /// Something of the pod still runs or waits and would not end by itself: delete it, and start
    /// no other attempt before it is gone.
    pub lingers: bool,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The task did its work.
    Succeeded {
        /// A JSON object.
        outputs: Value,
    },
    /// It did not.
    Failed {
        /// Whose fault it was.
        class: FailureClass,
        /// What happened. Its code may be the task's own: nothing may be decided from it.
        error: ErrorInfo,
        /// Whether another attempt may end differently.
        retryable: bool,
    },
    /// The operator ended it; the recorded `stopping` says why.
    Stopped,
}

/// What `pod` means for its attempt. `stopping` counts only if it is about this very attempt.
pub fn observe(pod: &Pod, stopping: Option<&Stopping>) -> PodState {
    let facts = Facts::of(pod);
    let stopped = stopping.is_some_and(|stopping| concerns(stopping, pod));
    if facts.has_ended(stopped) {
        let outcome = if stopped {
            Outcome::Stopped
        } else {
            outcome(&facts)
        };
        return PodState::Ended(ended(&facts, outcome));
    }
    if let Some(since) = facts.running_since() {
        return PodState::Running { since };
    }
    match failure::hopeless(&facts).filter(|_| !stopped) {
        Some(failure) => PodState::Ended(ended(&facts, failure.into_outcome(None))),
        None => facts.waiting(),
    }
}

/// When somebody asked for a pod's deletion, if somebody did.
pub fn deletion_asked(metadata: &ObjectMeta) -> Option<Time> {
    facts::deletion_asked(metadata)
}

/// How an attempt ended whose pod the API server no longer has and nobody read before.
pub fn gone(stopping: Option<&Stopping>) -> Ended {
    let outcome = match stopping {
        Some(_) => Outcome::Stopped,
        None => Failure::infrastructure(
            ErrorCode::PodDeleted,
            "PodGone",
            "the pod is gone, its finalizer removed by somebody, and how it ended is not known",
        )
        .into_outcome(None),
    };
    Ended {
        started_at: None,
        finished_at: None,
        exit_code: None,
        outcome,
        lingers: false,
    }
}

/// Whether `stopping` is about the attempt that `pod` runs. A pod that lost its label is taken to
/// be the one that the caller means.
fn concerns(stopping: &Stopping, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(LABEL_ATTEMPT))
        .is_none_or(|attempt| *attempt == stopping.attempt.to_string())
}

fn ended(facts: &Facts, outcome: Outcome) -> Ended {
    Ended {
        started_at: facts.started_at(),
        finished_at: facts.finished_at(),
        exit_code: facts.exit_code(),
        outcome,
        lingers: facts.lingers(),
    }
}

fn outcome(facts: &Facts) -> Outcome {
    if !facts.has_succeeded() {
        return failure::of(facts);
    }
    match message::outputs(facts.message(), facts.message_limit()) {
        Ok(outputs) => Outcome::Succeeded { outputs },
        Err((code, text)) => {
            Failure::application(code, "Completed", text).into_outcome(facts.exit_code())
        }
    }
}
