//! How an attempt failed, and whose fault it was. The order of the rules is the table in
//! [`super`].

use k8s_openapi::api::core::v1::{ContainerStateTerminated, PodCondition};
use serde_json::{Map, Value, json};

use super::{MAIN_CONTAINER, Outcome, facts::Facts, message};
use crate::api::{ErrorCode, ErrorInfo, FailureClass};

/// One failed attempt.
pub(super) struct Failure {
    class: FailureClass,
    code: String,
    /// The cluster's own word for it.
    reason: String,
    message: String,
    retryable: bool,
    /// What the task said beside its message.
    details: Map<String, Value>,
}

impl Failure {
    fn new(class: FailureClass, code: ErrorCode, reason: &str, message: impl Into<String>) -> Self {
        Failure {
            class,
            code: code.as_str().to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            retryable: true,
            details: Map::new(),
        }
    }

    /// A failure by the task's own fault.
    pub(super) fn application(code: ErrorCode, reason: &str, message: impl Into<String>) -> Self {
        Failure::new(FailureClass::Application, code, reason, message)
    }

    /// A failure by no fault of the task.
    pub(super) fn infrastructure(
        code: ErrorCode,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Failure::new(FailureClass::Infrastructure, code, reason, message)
    }

    /// The same failure, which no other attempt can avoid.
    fn for_good(mut self) -> Self {
        self.retryable = false;
        self
    }

    /// The failure as it is recorded. Details that the task gave itself are left as they are.
    pub(super) fn into_outcome(self, exit_code: Option<i32>) -> Outcome {
        let mut details = self.details;
        let mut fill = |key: &str, value: Value| {
            details.entry(key).or_insert(value);
        };
        fill("class", json!(self.class));
        fill("reason", json!(self.reason));
        if let Some(code) = exit_code {
            fill("exit_code", json!(code));
        }
        Outcome::Failed {
            class: self.class,
            error: ErrorInfo {
                message: self.message,
                code: self.code,
                details: Some(Value::Object(details)),
            },
            retryable: self.retryable,
        }
    }
}

/// How the attempt failed whose pod has ended.
pub(super) fn of(facts: &Facts) -> Outcome {
    let failure = by_pod_reason(facts)
        .or_else(|| by_disruption(facts))
        .or_else(|| by_deletion(facts))
        .or_else(|| facts.terminated().map(|main| by_container(facts, main)))
        .or_else(|| by_init_container(facts))
        .unwrap_or_else(unseen);
    failure.into_outcome(facts.exit_code())
}

/// Why a pod that waits can never start, if that is certain.
pub(super) fn hopeless(facts: &Facts) -> Option<Failure> {
    facts.waiting_containers().find_map(|waiting| {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let said = waiting.message.as_deref().unwrap_or_default();
        match reason {
            "CreateContainerConfigError" if is_about_root(said) => Some(
                Failure::application(ErrorCode::ImageRunsAsRoot, reason, runs_as_root(said))
                    .for_good(),
            ),
            "InvalidImageName" => Some(
                Failure::application(
                    ErrorCode::ImagePull,
                    reason,
                    with("the image's name is not valid", said),
                )
                .for_good(),
            ),
            _ => None,
        }
    })
}

fn is_about_root(message: &str) -> bool {
    ["runAsNonRoot", "non-root policy"]
        .iter()
        .any(|sign| message.contains(sign))
}

fn runs_as_root(said: &str) -> String {
    let what = with("the image would run as root, which is forbidden here", said);
    format!(
        "{what}; set the container's securityContext.runAsUser to a uid other than 0 that the image \
         works with, or use an image with a numeric USER other than 0 (if the installation asks for \
         it, an administrator can set executors.restricted: false in the chart's values)"
    )
}

/// The node's own word, or the cluster's.
fn by_pod_reason(facts: &Facts) -> Option<Failure> {
    let (reason, said) = (facts.reason(), facts.reason_message());
    let failure = match reason {
        "" => return None,
        "DeadlineExceeded" => Failure::application(
            ErrorCode::Timeout,
            reason,
            with(
                "the pod was active longer than its activeDeadlineSeconds",
                said,
            ),
        ),
        "Evicted" if facts.disruption().is_none() && is_own_limit(said) => Failure::application(
            ErrorCode::Evicted,
            reason,
            with(
                "the pod used more storage than its own limit; raise the limit or write less",
                said,
            ),
        ),
        "Evicted" | "Preempting" => Failure::infrastructure(
            ErrorCode::Evicted,
            reason,
            with("the node evicted the pod", said),
        ),
        "NodeLost" | "NodeShutdown" | "Terminated" | "Shutdown" => Failure::infrastructure(
            ErrorCode::NodeLost,
            reason,
            with("the pod's node was lost or shut down", said),
        ),
        "AppArmor"
        | "SysctlForbidden"
        | "PodOSNotSupported"
        | "SupplementalGroupsPolicyNotSupported"
        | "PodLevelResourcesNotSupported"
        | "InitContainerRestartPolicyForbidden" => Failure::application(
            ErrorCode::StartError,
            reason,
            with("the node cannot do what the pod's spec asks", said),
        )
        .for_good(),
        _ if facts.started_at().is_some() => Failure::infrastructure(
            ErrorCode::Evicted,
            reason,
            with("the node ended the pod", said),
        ),
        _ => Failure::infrastructure(
            ErrorCode::PodRefused,
            reason,
            with("the node refused the pod", said),
        ),
    };
    Some(failure)
}

/// Whether an eviction was for a limit of the pod's own. (One for the node's sake comes with
/// DisruptionTarget and says that the node was low.)
fn is_own_limit(message: &str) -> bool {
    [
        "exceeds the limit",
        "exceeds the total limit",
        "exceeded its local ephemeral storage limit",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

fn by_disruption(facts: &Facts) -> Option<Failure> {
    let disruption: &PodCondition = facts.disruption()?;
    if facts.ended_before_disruption(disruption) {
        return None;
    }
    let reason = disruption.reason.as_deref().unwrap_or("DisruptionTarget");
    let said = disruption.message.as_deref().unwrap_or_default();
    let (code, what) = match reason {
        "DeletionByPodGC" => (ErrorCode::NodeLost, "the pod's node is gone"),
        "EvictionByEvictionAPI" => (ErrorCode::Evicted, "the pod was evicted"),
        "PreemptionByScheduler" => (
            ErrorCode::Evicted,
            "the pod made room for one of higher priority",
        ),
        "DeletionByTaintManager" => (
            ErrorCode::Evicted,
            "the pod had to leave its node for a taint",
        ),
        _ => (ErrorCode::Evicted, "the cluster ended the pod"),
    };
    Some(Failure::infrastructure(code, reason, with(what, said)))
}

fn by_deletion(facts: &Facts) -> Option<Failure> {
    (facts.is_deleted() && !facts.ended_before_deletion()).then(|| {
        let what = "the pod was deleted by somebody else before its task had ended";
        Failure::infrastructure(ErrorCode::PodDeleted, "Deleted", what)
    })
}

/// What the task's container says of its end.
fn by_container(facts: &Facts, main: &ContainerStateTerminated) -> Failure {
    let reason = main.reason.as_deref().unwrap_or("Error");
    let (code, said) = (main.exit_code, facts.message());
    match reason {
        "OOMKilled" => Failure::application(ErrorCode::OomKilled, reason, out_of_memory(facts)),
        "ContainerStatusUnknown" | "Unknown" => Failure::infrastructure(
            ErrorCode::NodeLost,
            reason,
            with(
                "the node lost the container, and how it ended is not known",
                said,
            ),
        ),
        "StartError"
        | "ContainerCannotRun"
        | "RunContainerError"
        | "CreateContainerError"
        | "CreateContainerConfigError"
        | "PreCreateHookError"
        | "PreStartHookError"
        | "PostStartHookError" => Failure::application(
            ErrorCode::StartError,
            reason,
            with("the container could not be started", said),
        ),
        _ => match message::reported_error(said) {
            Some(error) => Failure {
                code: error
                    .code
                    .unwrap_or_else(|| ErrorCode::TaskFailed.as_str().to_owned()),
                details: error.details,
                ..Failure::application(
                    ErrorCode::TaskFailed,
                    reason,
                    error.message.unwrap_or_else(|| exit(code)),
                )
            },
            None if code == 137 => Failure::application(ErrorCode::Killed, reason, killed(said)),
            None => Failure::application(ErrorCode::TaskFailed, reason, with(&exit(code), said)),
        },
    }
}

fn exit(code: i32) -> String {
    format!("exit code {code}")
}

fn killed(said: &str) -> String {
    let what = with("exit code 137 (SIGKILL)", said);
    format!(
        "{what}; nobody says who killed the container: often it is the kernel, for memory; \
         raise resources.limits.memory"
    )
}

fn out_of_memory(facts: &Facts) -> String {
    let limit = facts.pod.spec.as_ref().and_then(|spec| {
        let main = spec
            .containers
            .iter()
            .find(|container| container.name == MAIN_CONTAINER)?;
        main.resources.as_ref()?.limits.as_ref()?.get("memory")
    });
    match limit {
        Some(limit) => format!(
            "the container needed more memory than its limit of {}; raise resources.limits.memory",
            limit.0
        ),
        None => "the container ran out of its node's memory; set resources.requests.memory and limits.memory".to_owned(),
    }
}

/// Tasks have no init containers; an admission webhook may have added one.
fn by_init_container(facts: &Facts) -> Option<Failure> {
    let (name, end) = facts.failed_init()?;
    let what = format!(
        "init container {name:?}, which something in the cluster added to the pod, failed with {}",
        exit(end.exit_code)
    );
    let said = end.message.as_deref().unwrap_or_default();
    let reason = end.reason.as_deref().unwrap_or("Error");
    Some(Failure::infrastructure(
        ErrorCode::StartError,
        reason,
        with(&what, said),
    ))
}

fn unseen() -> Failure {
    let what = "the pod failed, and nobody saw how its container ended";
    Failure::infrastructure(ErrorCode::NodeLost, "Unknown", what)
}

/// `what`, followed by the end of what was `said` about it.
fn with(what: &str, said: &str) -> String {
    match message::tail(said) {
        tail if tail.is_empty() => what.to_owned(),
        tail => format!("{what}: {tail}"),
    }
}
