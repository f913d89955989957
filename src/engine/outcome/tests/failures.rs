//! How attempts fail: every row of the table.

use rstest::rstest;

use super::*;
use FailureClass::{Application, Infrastructure};

#[rstest]
#[case::exit_code(
    "TASK_FAILED",
    Application,
    true,
    "exit code 1: no such file",
    pod_with("Failed", exited(1, "Error", "no such file\n"))
)]
#[case::exit_code_alone(
    "TASK_FAILED",
    Application,
    true,
    "exit code 3",
    pod_with("Failed", exited(3, "Error", ""))
)]
#[case::sigterm_of_its_own(
    "TASK_FAILED",
    Application,
    true,
    "exit code 143",
    pod_with("Failed", exited(143, "Error", ""))
)]
#[case::sigkill_without_reason("KILLED", Application, true, "memory", exit_137())]
#[case::oom(
    "OOM_KILLED",
    Application,
    true,
    "32Mi",
    pod_with("Failed", exited(137, "OOMKilled", "{\"half\":"))
)]
#[case::start_error("START_ERROR", Application, true, "executable file not found", pod_with("Failed", json!({"terminated": {
    "exitCode": 128, "reason": "StartError", "startedAt": "1970-01-01T00:00:00Z", "finishedAt": FINISHED,
    "message": "failed to create containerd task: exec: \"nope\": executable file not found in $PATH",
}})))]
#[case::cannot_run(
    "START_ERROR",
    Application,
    true,
    "",
    pod_with("Failed", exited(127, "ContainerCannotRun", ""))
)]
#[case::lost_by_the_kubelet("NODE_LOST", Infrastructure, true, "could not be located", pod_with("Failed", json!({"terminated": {
    "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null,
    "message": "The container could not be located when the pod was terminated",
}})))]
#[case::lost_by_the_runtime(
    "NODE_LOST",
    Infrastructure,
    true,
    "",
    pod_with("Failed", exited(255, "Unknown", ""))
)]
#[case::backstop(
    "TIMEOUT",
    Application,
    true,
    "activeDeadlineSeconds",
    with_reason(
        exit_137(),
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline"
    )
)]
#[case::backstop_before_start(
    "TIMEOUT",
    Application,
    true,
    "",
    with_reason(never_ran("Failed"), "DeadlineExceeded", "")
)]
#[case::evicted_by_its_node(
    "EVICTED",
    Infrastructure,
    true,
    "low on resource",
    with_reason(
        disrupted(exit_137(), "TerminationByKubelet", 50),
        "Evicted",
        "The node was low on resource: memory."
    )
)]
#[case::evicted_and_nothing_else_known(
    "EVICTED",
    Infrastructure,
    true,
    "",
    with_reason(
        never_ran("Failed"),
        "Evicted",
        "The node was low on resource: ephemeral-storage."
    )
)]
#[case::evicted_for_its_empty_dir(
    "EVICTED",
    Application,
    true,
    "raise the limit",
    with_reason(
        exit_137(),
        "Evicted",
        "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Gi\". "
    )
)]
#[case::evicted_for_its_storage(
    "EVICTED",
    Application,
    true,
    "",
    with_reason(
        exit_137(),
        "Evicted",
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "
    )
)]
#[case::evicted_for_its_container(
    "EVICTED",
    Application,
    true,
    "",
    with_reason(
        exit_137(),
        "Evicted",
        "Container main exceeded its local ephemeral storage limit \"1Gi\". "
    )
)]
#[case::made_room_for_a_critical_pod(
    "EVICTED",
    Infrastructure,
    true,
    "",
    with_reason(
        disrupted(exit_137(), "TerminationByKubelet", 50),
        "Preempting",
        "Preempted in order to admit critical pod"
    )
)]
#[case::node_shut_down(
    "NODE_LOST",
    Infrastructure,
    true,
    "shutdown",
    with_reason(
        disrupted(exit_137(), "TerminationByKubelet", 50),
        "Terminated",
        "Pod was terminated in response to imminent node shutdown."
    )
)]
#[case::refused_by_a_node_shutting_down(
    "NODE_LOST",
    Infrastructure,
    true,
    "",
    with_reason(
        never_ran("Failed"),
        "NodeShutdown",
        "Pod was rejected as the node is shutting down."
    )
)]
#[case::node_lost(
    "NODE_LOST",
    Infrastructure,
    true,
    "",
    with_reason(
        never_ran("Failed"),
        "NodeLost",
        "Node node-a which was running pod is unresponsive"
    )
)]
#[case::out_of_cpu(
    "POD_REFUSED",
    Infrastructure,
    true,
    "Node didn't have enough resource",
    with_reason(
        never_ran("Failed"),
        "OutOfcpu",
        "Pod was rejected: Node didn't have enough resource: cpu"
    )
)]
#[case::node_affinity(
    "POD_REFUSED",
    Infrastructure,
    true,
    "",
    with_reason(
        never_ran("Failed"),
        "NodeAffinity",
        "Pod was rejected: Predicate NodeAffinity failed"
    )
)]
#[case::admission_error(
    "POD_REFUSED",
    Infrastructure,
    true,
    "",
    with_reason(never_ran("Failed"), "UnexpectedAdmissionError", "Allocate failed")
)]
#[case::topology(
    "POD_REFUSED",
    Infrastructure,
    true,
    "",
    with_reason(never_ran("Failed"), "TopologyAffinityError", "")
)]
#[case::ended_by_its_node_for_something_new(
    "EVICTED",
    Infrastructure,
    true,
    "",
    with_reason(exit_137(), "SomethingNew", "")
)]
#[case::sysctl(
    "START_ERROR",
    Application,
    false,
    "forbidden sysctl",
    with_reason(
        never_ran("Failed"),
        "SysctlForbidden",
        "forbidden sysctl: \"kernel.msgmax\" not allowlisted"
    )
)]
#[case::app_armor(
    "START_ERROR",
    Application,
    false,
    "",
    with_reason(never_ran("Failed"), "AppArmor", "Cannot enforce AppArmor")
)]
#[case::drained(
    "EVICTED",
    Infrastructure,
    true,
    "said so",
    deleted(disrupted(exit_137(), "EvictionByEvictionAPI", 18), 18)
)]
#[case::drained_and_answered_sigterm(
    "EVICTED",
    Infrastructure,
    true,
    "",
    deleted(
        disrupted(
            pod_with("Failed", exited(1, "Error", "interrupted")),
            "EvictionByEvictionAPI",
            18
        ),
        18
    )
)]
#[case::preempted(
    "EVICTED",
    Infrastructure,
    true,
    "priority",
    deleted(disrupted(exit_137(), "PreemptionByScheduler", 18), 18)
)]
#[case::tainted(
    "EVICTED",
    Infrastructure,
    true,
    "taint",
    deleted(disrupted(exit_137(), "DeletionByTaintManager", 18), 18)
)]
#[case::node_gone(
    "NODE_LOST",
    Infrastructure,
    true,
    "node is gone",
    deleted(disrupted(pod_with("Failed", running()), "DeletionByPodGC", 59), 59)
)]
#[case::oom_during_a_drain(
    "EVICTED",
    Infrastructure,
    true,
    "",
    deleted(
        disrupted(
            pod_with("Failed", exited(137, "OOMKilled", "")),
            "EvictionByEvictionAPI",
            18
        ),
        18
    )
)]
#[case::deleted_by_hand(
    "POD_DELETED",
    Infrastructure,
    true,
    "somebody else",
    deleted(exit_137(), 18)
)]
#[case::deleted_and_answered_sigterm(
    "POD_DELETED",
    Infrastructure,
    true,
    "",
    deleted(pod_with("Failed", exited(7, "Error", "")), 18)
)]
#[case::deleted_before_it_ran(
    "POD_DELETED",
    Infrastructure,
    true,
    "",
    deleted(never_ran("Failed"), 18)
)]
#[case::failed_then_deleted(
    "TASK_FAILED",
    Application,
    true,
    "",
    deleted(pod_with("Failed", exited(1, "Error", "")), 59)
)]
#[case::failed_then_drained(
    "TASK_FAILED",
    Application,
    true,
    "",
    deleted(
        disrupted(
            pod_with("Failed", exited(1, "Error", "")),
            "EvictionByEvictionAPI",
            59
        ),
        59
    )
)]
#[case::killed_then_deleted("KILLED", Application, true, "", deleted(exit_137(), 59))]
#[case::stopped_by_a_deletion_dated_anew_at_its_end(
    "POD_DELETED",
    Infrastructure,
    true,
    "somebody else",
    removed(pod_with("Failed", exited(143, "Error", "")), 59)
)]
#[case::killed_by_a_deletion_dated_anew_at_its_end(
    "POD_DELETED",
    Infrastructure,
    true,
    "",
    removed(exit_137(), 59)
)]
#[case::out_of_memory_then_removed(
    "OOM_KILLED",
    Application,
    true,
    "",
    removed(pod_with("Failed", exited(137, "OOMKilled", "")), 59)
)]
#[case::failed_then_removed(
    "TASK_FAILED",
    Application,
    true,
    "",
    removed(pod_with("Failed", exited(1, "Error", "")), 59)
)]
#[case::nobody_saw_it("NODE_LOST", Infrastructure, true, "nobody saw", never_ran("Failed"))]
#[case::failed_while_said_to_run(
    "NODE_LOST",
    Infrastructure,
    true,
    "",
    pod_with("Failed", running())
)]
#[case::failed_while_said_to_wait(
    "NODE_LOST",
    Infrastructure,
    true,
    "",
    pod_with("Failed", waiting("ContainerCreating", ""))
)]
#[case::succeeded_with_a_failed_task(
    "TASK_FAILED",
    Application,
    true,
    "",
    pod_with("Succeeded", exited(1, "Error", ""))
)]
fn a_failed_attempt(
    #[case] code: &str,
    #[case] class: FailureClass,
    #[case] retryable: bool,
    #[case] says: &str,
    #[case] pod: Pod,
) {
    let (seen_class, seen_code, seen_retryable, message) = failure_of(&pod);
    assert_eq!(
        (seen_code.as_str(), seen_class, seen_retryable),
        (code, class, retryable),
        "{message}"
    );
    assert!(message.contains(says), "{message:?} does not say {says:?}");
    assert!(!ended_of(&pod).lingers);
}
