//! What a person must be told beside what status says: few things, and nothing of a run that
//! goes well.

use crate::{
    api::{ErrorCode, RunPhase, TaskExecutionSpec, TaskExecutionStatus, TaskPhase, WorkflowStatus},
    engine::outcome::STARTING,
};

/// Reasons of waiting that ask nobody to do something.
const USUAL: [&str; 2] = [STARTING, "Scheduling"];

/// Something to tell, as a Kubernetes Event has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it is, in one word.
    pub reason: String,
    /// What the operator does about it, in one word.
    pub action: &'static str,
    /// What it is, for a person.
    pub note: String,
}

/// What the change of a run's status is worth.
pub fn of_run(before: Option<RunPhase>, after: &WorkflowStatus) -> Option<Notice> {
    if before == Some(after.phase) {
        return None;
    }
    let code = after.error.as_ref().map(|error| error.code.as_str());
    let reason = match after.phase {
        RunPhase::Failed if code == Some(ErrorCode::InvalidSpec.as_str()) => "InvalidSpec",
        RunPhase::Failed => "RunFailed",
        RunPhase::TimedOut => "RunTimedOut",
        _ => return None,
    };
    Some(Notice {
        reason: reason.to_owned(),
        action: "End",
        note: after.message.clone().unwrap_or_default(),
    })
}

/// What the change of a task execution's status is worth.
pub fn of_task(
    spec: &TaskExecutionSpec,
    before: Option<&TaskExecutionStatus>,
    after: &TaskExecutionStatus,
) -> Option<Notice> {
    let message = after.message.as_deref().unwrap_or_default();
    let item = spec.index.map(|item| format!(" item {item}"));
    let item = item.unwrap_or_default();
    let note = |what: &str| format!("task {:?}{item} {what}: {message}", spec.task);
    let failures = |status: &TaskExecutionStatus| status.failures.infrastructure;
    match after.phase {
        TaskPhase::Pending => {
            let reason = after.reason.as_deref()?;
            let shown = before.and_then(|before| before.reason.as_deref());
            let news =
                shown != Some(reason) && !USUAL.contains(&reason) && after.stopping.is_none();
            news.then(|| Notice {
                reason: reason.to_owned(),
                action: "Wait",
                note: note("waits"),
            })
        }
        TaskPhase::Retrying if failures(after) > before.map_or(0, failures) => Some(Notice {
            reason: "InfrastructureRetry".to_owned(),
            action: "Retry",
            note: note("is tried again after a failure that was not its own"),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn spec(index: Option<u32>) -> TaskExecutionSpec {
        serde_json::from_value(json!({
            "workflow": {"name": "w", "uid": "wu", "id": "w"}, "task": "t", "index": index,
            "retry": {"maxAttempts": 1, "backoff": {"initial": "1s", "factor": 2.0, "max": "1m", "jitter": 0.0}},
            "infrastructureRetries": 1, "imagePullTimeout": "10m",
        }))
        .unwrap()
    }

    fn task(status: Value) -> TaskExecutionStatus {
        serde_json::from_value(status).unwrap()
    }

    fn run(status: Value) -> WorkflowStatus {
        serde_json::from_value(status).unwrap()
    }

    #[rstest]
    #[case::pull(json!({"phase": "Pending", "reason": "ErrImagePull", "message": "no such image"}), Some("ErrImagePull"))]
    #[case::no_node(json!({"phase": "Pending", "reason": "Unschedulable", "message": "0/3"}), Some("Unschedulable"))]
    #[case::no_tool(json!({"phase": "Pending", "reason": "ToolMissing", "message": "there is no Tool"}), Some("ToolMissing"))]
    #[case::slow(json!({"phase": "Pending", "reason": "ContainerCreating"}), None)]
    #[case::new(json!({"phase": "Pending"}), None)]
    #[case::node_lost(json!({"phase": "Retrying", "reason": "NODE_LOST", "failures": {"infrastructure": 1}}), Some("InfrastructureRetry"))]
    #[case::own_failure(json!({"phase": "Retrying", "reason": "TASK_FAILED", "failures": {"application": 1}}), None)]
    #[case::running(json!({"phase": "Running"}), None)]
    #[case::done(json!({"phase": "Succeeded", "reason": "Completed"}), None)]
    fn of_a_task_only_what_somebody_can_mend_is_told(
        #[case] after: Value,
        #[case] told: Option<&str>,
    ) {
        let (spec, after) = (spec(None), task(after));
        let notice = of_task(&spec, None, &after);
        assert_eq!(notice.map(|notice| notice.reason).as_deref(), told);
        assert_eq!(of_task(&spec, Some(&after), &after), None, "once");
    }

    #[test]
    fn an_item_is_named_by_its_place() {
        let after = task(json!({"phase": "Pending", "reason": "Unschedulable", "message": "0/3"}));
        let note = |index| of_task(&spec(index), None, &after).unwrap().note;
        assert_eq!(note(Some(7)), "task \"t\" item 7 waits: 0/3");
        assert_eq!(note(None), "task \"t\" waits: 0/3");
    }

    #[rstest]
    #[case::well(json!({"phase": "Succeeded"}), None)]
    #[case::cancelled(json!({"phase": "Cancelled", "message": "enough"}), None)]
    #[case::failed(json!({"phase": "Failed", "message": "task failed"}), Some("RunFailed"))]
    #[case::late(json!({"phase": "TimedOut", "message": "too long"}), Some("RunTimedOut"))]
    #[case::wrong(json!({"phase": "Failed", "error": {"code": "INVALID_SPEC", "message": "m"}}), Some("InvalidSpec"))]
    fn of_a_run_only_a_bad_end_is_told(#[case] after: Value, #[case] told: Option<&str>) {
        let after = run(after);
        let notice = of_run(Some(RunPhase::Running), &after);
        assert_eq!(notice.map(|notice| notice.reason).as_deref(), told);
        assert_eq!(of_run(Some(after.phase), &after), None, "once");
    }
}
