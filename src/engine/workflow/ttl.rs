//! How long a finished run stays.

use crate::api::{RunPhase, Time, Ttl, Workflow};

/// When a finished run is to be deleted, if ever: by its own `ttl`, else by the installation's.
pub fn expires_at(workflow: &Workflow, installation: &Ttl) -> Option<Time> {
    let status = workflow.status.as_ref()?;
    let own = workflow.spec.ttl.clone().unwrap_or_default();
    let ttl = match status.phase {
        RunPhase::Succeeded => own.after_succeeded.or(installation.after_succeeded),
        phase if phase.is_final() => own.after_failed.or(installation.after_failed),
        _ => None,
    };
    Some(status.finished_at?.after(ttl?.get()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::kept_by_default("Succeeded", json!({}), json!({}), None)]
    #[case::its_own("Succeeded", json!({"afterSucceeded": "1m"}), json!({}), Some(60))]
    #[case::that_of_the_installation("Succeeded", json!({}), json!({"afterSucceeded": "2m"}), Some(120))]
    #[case::its_own_first("Succeeded", json!({"afterSucceeded": "1m"}), json!({"afterSucceeded": "2m"}), Some(60))]
    #[case::each_by_itself("Failed", json!({"afterSucceeded": "1m"}), json!({"afterFailed": "2m"}), Some(120))]
    #[case::a_failed_one("Failed", json!({"afterSucceeded": "1m", "afterFailed": "3m"}), json!({}), Some(180))]
    #[case::a_cancelled_one("Cancelled", json!({"afterFailed": "3m"}), json!({}), Some(180))]
    #[case::one_that_took_too_long("TimedOut", json!({"afterFailed": "0s"}), json!({}), Some(0))]
    #[case::one_that_runs("Running", json!({"afterSucceeded": "0s", "afterFailed": "0s"}), json!({}), None)]
    fn a_run_expires(
        #[case] phase: &str,
        #[case] own: Value,
        #[case] installation: Value,
        #[case] seconds: Option<u64>,
    ) {
        let finished = "2026-01-01T00:00:00Z";
        let workflow: Workflow = serde_json::from_value(json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "w"}, "spec": {"tasks": [], "ttl": own},
            "status": {"phase": phase, "finishedAt": finished},
        }))
        .unwrap();
        let expected = seconds.map(|seconds| {
            Time(finished.parse().unwrap()).after(std::time::Duration::from_secs(seconds))
        });
        let installation = serde_json::from_value(installation).unwrap();
        assert_eq!(expires_at(&workflow, &installation), expected);
    }
}
