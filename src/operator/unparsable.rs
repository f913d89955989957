//! Stored objects that cannot be parsed: each is shown at itself, by a condition.

use kube::{
    Resource,
    api::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};

use super::{
    cluster::{CallError, Cluster},
    index::Key,
};
use crate::{
    api::{PARSED, TaskExecution, Time, Workflow},
    ports::Clock,
};

/// An object that cannot be parsed. It is shown once for each generation: a change of status
/// alone, as showing it is, says nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unparsable {
    /// Which kind.
    pub kind: Kind,
    /// Which object.
    pub key: Key,
    /// Which version of its spec.
    pub generation: Option<i64>,
    /// What is wrong with it.
    pub error: String,
}

/// The kinds that have conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Workflow.
    Workflow,
    /// TaskExecution.
    TaskExecution,
}

impl Kind {
    pub(super) fn resource(self) -> ApiResource {
        match self {
            Kind::Workflow => ApiResource::erase::<Workflow>(&()),
            Kind::TaskExecution => ApiResource::erase::<TaskExecution>(&()),
        }
    }

    /// What it is called in metrics.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Kind::Workflow => "workflows",
            Kind::TaskExecution => "taskexecutions",
        }
    }

    /// What its status is called there.
    pub(super) fn status(self) -> &'static str {
        match self {
            Kind::Workflow => "workflows/status",
            Kind::TaskExecution => "taskexecutions/status",
        }
    }
}

/// Shows one, unless it shows already or is gone.
///
/// # Errors
/// A call that failed; trying again is safe.
pub async fn show(
    cluster: &Cluster,
    clock: &dyn Clock,
    unparsable: &Unparsable,
) -> Result<(), CallError> {
    let Some(object) = cluster.fetch_unparsable(unparsable).await? else {
        return Ok(());
    };
    let Some(conditions) = conditions(&object, unparsable, Time(clock.now())) else {
        return Ok(());
    };
    let patch = json!({
        "metadata": {"resourceVersion": object.meta().resource_version},
        "status": {"conditions": conditions},
    });
    match cluster.show_unparsable(unparsable, &patch).await {
        // The schema or the rights are in the way: the log has said it.
        Err(error) if error.is_final_refusal() || error.is_not_found() => Ok(()),
        other => other,
    }
}

/// The object's conditions with ours; none if ours is there or the object is another by now.
fn conditions(object: &DynamicObject, unparsable: &Unparsable, now: Time) -> Option<Vec<Value>> {
    if object.metadata.generation != unparsable.generation {
        return None;
    }
    let shown = object.data["status"]["conditions"].as_array();
    let mut conditions = shown.cloned().unwrap_or_default();
    let ours = |condition: &Value| condition["type"] == PARSED;
    if conditions
        .iter()
        .any(|condition| ours(condition) && condition["message"] == unparsable.error)
    {
        return None;
    }
    conditions.retain(|condition| !ours(condition));
    conditions.push(json!({
        "type": PARSED, "status": "False", "reason": "Unparsable", "message": unparsable.error,
        "lastTransitionTime": now, "observedGeneration": unparsable.generation,
    }));
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unparsable() -> Unparsable {
        Unparsable {
            kind: Kind::Workflow,
            key: ("n".into(), "w".into()),
            generation: Some(2),
            error: "no tasks".to_owned(),
        }
    }

    fn object(generation: i64, status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "generation": generation},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn an_object_is_shown_once_beside_what_it_shows_already() {
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let other = json!({"type": "Other"});
        let seen = object(2, json!({"conditions": [other]}));
        let shown = conditions(&seen, &unparsable(), now).unwrap();
        assert_eq!(shown[0], other);
        assert_eq!(shown[1]["reason"], "Unparsable");
        let again = object(2, json!({"conditions": shown}));
        assert_eq!(conditions(&again, &unparsable(), now), None);
        let newer = object(3, json!({}));
        assert_eq!(conditions(&newer, &unparsable(), now), None);
        let bare = object(2, Value::Null);
        assert_eq!(conditions(&bare, &unparsable(), now).unwrap().len(), 1);
    }
}
