//! What is special about pods: values that are filled in, and deletion in two steps.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    metadata,
    refusal::{Cause, Refused},
};

const GRACE_SECONDS: i64 = 30;

/// Fills in what a client left out.
pub fn fill_in(pod: &mut Value) {
    let spec = &mut pod["spec"];
    for (field, value) in [
        ("dnsPolicy", json!("ClusterFirst")),
        ("enableServiceLinks", json!(true)),
        ("restartPolicy", json!("Always")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("terminationGracePeriodSeconds", json!(GRACE_SECONDS)),
    ] {
        fill(spec, field, value);
    }
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        containers.into_iter().flatten().for_each(fill_in_container);
    }
}

fn fill_in_container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let moves = name.ends_with(":latest") || !name.contains([':', '@']);
    let pull = if moves { "Always" } else { "IfNotPresent" };
    for (field, value) in [
        ("imagePullPolicy", json!(pull)),
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
    ] {
        fill(container, field, value);
    }
}

fn fill(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

/// The pod's `qosClass`.
pub fn quality(pod: &Value) -> &'static str {
    let containers = pod["spec"]["containers"].as_array();
    let resources: Vec<_> = containers
        .into_iter()
        .flatten()
        .map(|container| &container["resources"])
        .collect();
    let asks = |of: &Value| of.as_object().is_some_and(|of| !of.is_empty());
    let guaranteed = |one: &&Value| {
        let limits = &one["limits"];
        let requests = &one["requests"];
        ["cpu", "memory"].iter().all(|name| !limits[name].is_null())
            && (requests.is_null() || requests == limits)
    };
    if resources.iter().all(guaranteed) {
        "Guaranteed"
    } else if resources
        .iter()
        .any(|one| asks(&one["limits"]) || asks(&one["requests"]))
    {
        "Burstable"
    } else {
        "BestEffort"
    }
}

/// Of a pod's spec hardly anything may change.
pub fn objections(new: &Value, old: &Value) -> Vec<Cause> {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        spec["activeDeadlineSeconds"] = Value::Null;
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        spec
    };
    if fixed(new) == fixed(old) {
        return Vec::new();
    }
    vec![Cause::new(
        Refused::Forbidden,
        "spec",
        "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
    )]
}

/// What a deletion means for a pod that is there.
#[derive(Debug, PartialEq)]
pub enum Grace {
    /// It goes at once.
    None,
    /// It is marked now, and goes when its kubelet is done.
    Marked(Value),
    /// It is marked already, and this deletion asks for nothing shorter.
    Pending,
}

/// Decides on the grace period of a deletion.
pub fn grace(pod: &Value, asked: Option<i64>, now: Timestamp) -> Grace {
    let asked = asked.map(|seconds| if seconds < 0 { 1 } else { seconds });
    if metadata::is_deleted(pod) {
        return shorter_grace(pod, asked);
    }
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let nobody_runs_it = pod["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    let seconds = if nobody_runs_it || ["Succeeded", "Failed"].contains(&phase) {
        0
    } else {
        let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
        asked.or(own).unwrap_or(GRACE_SECONDS)
    };
    let mut marked = pod.clone();
    metadata::raise_generation(&mut marked);
    let fields = metadata::of(&mut marked);
    let at = now
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(now);
    fields.insert("deletionTimestamp".to_owned(), metadata::time(at));
    fields.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
    Grace::Marked(marked)
}

/// The deletion's time moves back by as much as the grace period gets shorter.
fn shorter_grace(pod: &Value, asked: Option<i64>) -> Grace {
    let granted = match metadata::grace(pod) {
        None | Some(0) => return Grace::None,
        Some(granted) => granted,
    };
    let Some(asked) = asked.filter(|asked| *asked < granted) else {
        return Grace::Pending;
    };
    let mut marked = pod.clone();
    let at = metadata::text(pod, "deletionTimestamp").parse::<Timestamp>();
    let at = at.map(|at| at - jiff::SignedDuration::from_secs(granted - asked));
    let fields = metadata::of(&mut marked);
    if let Ok(at) = at {
        fields.insert("deletionTimestamp".to_owned(), metadata::time(at));
    }
    fields.insert("deletionGracePeriodSeconds".to_owned(), asked.into());
    Grace::Marked(marked)
}
