//! What there is: counted from the index when metrics are read, so that it costs nothing between.

use std::time::Duration;

use kube::Resource;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::index::Index;
use crate::api::{RunPhase, TaskExecution, TaskPhase, Time};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: &'static str,
}

/// For what an object waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waiting {
    state: &'static str,
}

/// How many objects there are, and how long the one waits that has waited longest.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    workflows: Family<InPhase, Gauge>,
    executions: Family<InPhase, Gauge>,
    longest_wait: Family<Waiting, Gauge>,
}

impl Survey {
    /// Gauges that `registry` shows.
    pub fn register(registry: &mut Registry) -> Survey {
        let survey = Survey::default();
        registry.register(
            "workflows",
            "Workflows that exist, by phase",
            survey.workflows.clone(),
        );
        registry.register(
            "task_executions",
            "Task executions that exist, by phase",
            survey.executions.clone(),
        );
        registry.register(
            "longest_wait_seconds",
            "How long the object waits that has waited longest: pending for its start, or deleting",
            survey.longest_wait.clone(),
        );
        survey
    }

    /// Counts.
    pub fn take(&self, index: &Index, now: Time) {
        self.workflows.clear();
        self.executions.clear();
        let mut pending = Duration::ZERO;
        let mut deleting = Duration::ZERO;
        for workflow in index.workflows() {
            let phase = workflow.status.as_ref().map(|status| status.phase);
            let phase = phase.unwrap_or_default();
            count(&self.workflows, phase.as_str());
            if phase == RunPhase::Pending {
                pending = pending.max(since(created(&*workflow), now));
            }
            deleting = deleting.max(since(deleted(&*workflow), now));
        }
        for execution in index.executions() {
            let phase = execution.status.as_ref().map(|status| status.phase);
            let phase = phase.unwrap_or_default();
            count(&self.executions, phase.as_str());
            let suspended = execution.spec.suspend;
            if phase == TaskPhase::Pending && !suspended {
                pending = pending.max(since(attempt_due(&execution), now));
            }
            deleting = deleting.max(since(deleted(&*execution), now));
        }
        for pod in index.pods() {
            deleting = deleting.max(since(deleted(&*pod), now));
        }
        self.show_wait("pending", pending);
        self.show_wait("deleting", deleting);
    }

    fn show_wait(&self, state: &'static str, wait: Duration) {
        let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        self.longest_wait
            .get_or_create(&Waiting { state })
            .set(seconds);
    }
}

fn count(family: &Family<InPhase, Gauge>, phase: &'static str) {
    family.get_or_create(&InPhase { phase }).inc();
}

/// No time at all where it has not begun.
fn since(begun: Option<Time>, now: Time) -> Duration {
    begun.map_or(Duration::ZERO, |begun| now.since(begun))
}

fn created<K: Resource>(object: &K) -> Option<Time> {
    Some(Time(object.meta().creation_timestamp.as_ref()?.0))
}

/// Of a pod this is the end of its grace, before which it may well be there.
fn deleted<K: Resource>(object: &K) -> Option<Time> {
    Some(Time(object.meta().deletion_timestamp.as_ref()?.0))
}

/// When the attempt that has not started could have: after the one before, or from the beginning.
fn attempt_due(execution: &TaskExecution) -> Option<Time> {
    let status = execution.status.as_ref();
    let before = status.and_then(|status| status.attempts.last());
    before
        .map(|attempt| attempt.finished_at)
        .or_else(|| created(execution))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Workflow;
    use prometheus_client::encoding::text::encode;
    use serde_json::{Value, json};

    fn workflow(name: &str, status: Value, meta: Value) -> Workflow {
        let mut object = json!({
            "apiVersion": "compozy.dev/v1alpha1", "kind": "Workflow",
            "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1",
                         "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"tasks": []}, "status": status,
        });
        let given = meta.as_object().unwrap().clone();
        object["metadata"].as_object_mut().unwrap().extend(given);
        serde_json::from_value(object).unwrap()
    }

    fn shown(index: &Index, now: &str) -> String {
        let mut registry = Registry::with_prefix("compozy");
        let survey = Survey::register(&mut registry);
        let now = Time(now.parse().unwrap());
        // Taken again it is counted again, not added.
        survey.take(index, now);
        survey.take(index, now);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn runs_are_counted_by_phase() {
        let index = Index::default();
        for name in ["a", "b"] {
            index.apply_workflow(workflow(name, json!({"phase": "Running"}), json!({})));
        }
        index.apply_workflow(workflow("c", json!({"phase": "Failed"}), json!({})));
        let text = shown(&index, "2030-01-01T01:00:00Z");
        assert!(
            text.contains("compozy_workflows{phase=\"Running\"} 2"),
            "{text}"
        );
        assert!(
            text.contains("compozy_workflows{phase=\"Failed\"} 1"),
            "{text}"
        );
        assert!(text.contains("{state=\"pending\"} 0"), "{text}");
    }

    #[test]
    fn the_longest_wait_is_the_oldest_ones() {
        let index = Index::default();
        let deleted = json!({"deletionTimestamp": "2030-01-01T00:00:30Z"});
        index.apply_workflow(workflow("new", json!({}), json!({})));
        index.apply_workflow(workflow("going", json!({"phase": "Running"}), deleted));
        let text = shown(&index, "2030-01-01T00:01:30Z");
        assert!(text.contains("{state=\"pending\"} 90"), "{text}");
        assert!(text.contains("{state=\"deleting\"} 60"), "{text}");
    }
}
