//! What is recorded is what happened, and is recorded before it is acted upon.

use std::time::Duration;

use compozy::api::{FailureClass, TaskExecution};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::time::Instant;

use super::{Laws, attempt, owner, parsed};
use crate::{
    api_server::{Change, Kind},
    corpus::{kubelet::status, laws},
    troubles::is_a_strangers,
    world::World,
};

/// Nobody trusts longer in a lease that is not renewed.
const TRUSTED: Duration = Duration::from_secs(12);

impl Laws {
    /// What a task execution says of its attempts.
    pub(super) fn recorded(&mut self, uid: &str, execution: &TaskExecution) {
        let attempts = execution.status.iter().flat_map(|status| &status.attempts);
        let lost = attempts
            .filter(|attempt| attempt.class == Some(FailureClass::Infrastructure))
            .map(|attempt| attempt.number);
        let forgotten = lost.into_iter().find(|number| {
            let mut pods = self.pods.values();
            pods.any(|pod| {
                pod.execution == uid && pod.attempt == *number && pod.exit_code == Some(0)
            })
        });
        let stripped = self
            .executions
            .get(uid)
            .is_none_or(|seen| seen.seen.stripped);
        if let Some(number) = forgotten.filter(|_| !stripped) {
            let what = format!("{uid}: attempt {number} ended well and counts as lost");
            self.break_with("no success is forgotten", what);
        }
        if let Some(wrong) = laws::one_result_of(execution).or(laws::too_long_a_pause(execution)) {
            self.break_with("attempts are counted by whose fault they were", wrong);
        }
    }

    /// Nothing holds a task execution any more. Its run reads from it how the task ended.
    pub(super) fn released(&mut self, uid: &str) {
        let seen = self.executions.get(uid).filter(|seen| !seen.seen.stripped);
        let run = seen.and_then(|seen| self.runs.get(&seen.run));
        if run.is_some_and(|run| !run.seen.gone && !super::is_final(&run.phase)) {
            self.break_with(
                "a task execution stays until its run is over",
                uid.to_owned(),
            );
        }
    }

    /// The operator takes its finalizer from a pod.
    pub fn releases(&mut self, pod: &Value, execution: Option<&Value>) {
        let (Some(pod), Some(execution)) =
            (parsed::<Pod>(Some(pod)), parsed::<TaskExecution>(execution))
        else {
            return;
        };
        let (number, status) = (attempt(&pod), execution.status.unwrap_or_default());
        let failures = status.failures.application + status.failures.infrastructure;
        let recorded = status.phase.is_final() || number <= failures;
        if !recorded && owner(&pod) == execution.metadata.uid {
            let what = format!("attempt {number} of {}", execution.spec.task);
            self.break_with("a pod stays until its end is recorded", what);
        }
    }

    /// The operator deletes a pod by its name, and perhaps by its UID.
    pub fn deletes_by(&mut self, pod: &Value, preconditions: &Value) {
        let meant =
            preconditions["uid"].is_null() || preconditions["uid"] == pod["metadata"]["uid"];
        if meant && is_a_strangers(pod) {
            let what = pod["metadata"]["name"].to_string();
            self.break_with("nobody else's pod is deleted", what);
        }
    }

    /// A process asks for the lease.
    pub fn asks_for_lease(&mut self, identity: &str, at: Instant) {
        let renewed = self.leases.get(identity).and_then(|known| known.1);
        self.leases.insert(identity.to_owned(), (at, renewed));
    }

    /// Somebody got the lease.
    pub(super) fn renewed(&mut self, change: &Change) {
        let holder = change
            .after
            .as_ref()
            .map(|lease| &lease["spec"]["holderIdentity"]);
        let holder = holder.and_then(Value::as_str).unwrap_or_default();
        if let Some((asked, renewed)) = self.leases.get_mut(holder) {
            *renewed = Some(*asked);
        }
    }

    /// A process sends a write.
    pub fn trusts(&mut self, identity: &str, line: &str, at: Instant) {
        let renewed = self.leases.get(identity).and_then(|known| known.1);
        let since = renewed.map(|renewed| at.saturating_duration_since(renewed));
        if since.is_none_or(|since| since >= TRUSTED) {
            let what = format!("{identity} sends {line}, {since:?} after it asked for it");
            self.break_with("nobody writes on a lease that has run out", what);
        }
    }
}

impl World {
    /// Users come to end what does not end by itself: something of it has to be there that has no
    /// end of its own.
    pub fn stands_still(&mut self, workflow: &Value) {
        let uid = workflow["metadata"]["uid"].as_str().unwrap_or_default();
        let label = compozy::api::LABEL_WORKFLOW_UID;
        let alive = self.all(Kind::Pod).iter().any(|(_, pod)| {
            let pod = parsed::<Pod>(Some(pod));
            pod.is_some_and(|pod| {
                let labels = pod.metadata.labels.as_ref();
                let of = labels.and_then(|labels| labels.get(label));
                of.is_some_and(|of| of == uid) && !status::is_over(&pod)
            })
        });
        let works = self.pools.work_on(uid);
        if !alive && !works && workflow["spec"]["suspend"] != true {
            let name = workflow["metadata"]["name"].to_string();
            self.laws.break_with(
                "what can go on goes on",
                format!("{name} waits for nothing: {}", workflow["status"]["tasks"]),
            );
        }
    }
}
