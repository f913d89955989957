//! The schemas of our CRDs: what is dropped, and what is refused.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::{kinds::Kind, refusal::Cause};

/// The schemas of our kinds.
pub struct Schemas {
    workflow: Schema,
    task_execution: Schema,
}

/// The schema of one kind.
pub struct Schema {
    root: Value,
}

impl Schemas {
    /// Those that `make crds` writes.
    pub fn ours() -> Arc<Schemas> {
        static OURS: OnceLock<Arc<Schemas>> = OnceLock::new();
        OURS.get_or_init(|| {
            Arc::new(Schemas {
                workflow: Schema::installed("Workflow"),
                task_execution: Schema::installed("TaskExecution"),
            })
        })
        .clone()
    }

    /// The schema of a custom kind.
    pub fn of(&self, kind: Kind) -> &Schema {
        match kind {
            Kind::TaskExecution => &self.task_execution,
            _ => &self.workflow,
        }
    }
}

impl Schema {
    fn installed(kind: &str) -> Schema {
        let crds = compozy::api::crd::all().into_iter().flatten();
        let root = crds
            .filter_map(|(_, crd)| serde_json::to_value(crd).ok())
            .find(|crd| crd["spec"]["names"]["kind"] == kind)
            .map(|mut crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take());
        Schema {
            root: root.unwrap_or_default(),
        }
    }

    /// Drops what the schema does not know.
    pub fn prune(&self, object: &mut Value) {
        if let Value::Object(fields) = object {
            for (name, value) in fields.iter_mut() {
                if !ALWAYS.contains(&name.as_str()) {
                    prune(value, &self.root["properties"][name]);
                }
            }
            let known = &self.root["properties"];
            fields.retain(|name, _| ALWAYS.contains(&name.as_str()) || known.get(name).is_some());
        }
    }

    /// What is wrong with an object.
    pub fn objections(&self, _new: &Value, _old: Option<&Value>) -> Vec<Cause> {
        Vec::new()
    }
}

/// Fields that every object has, whatever its schema says.
const ALWAYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn prune(value: &mut Value, schema: &Value) {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    match value {
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| prune(item, &schema["items"])),
        Value::Object(fields) => {
            let further = &schema["additionalProperties"];
            let known = &schema["properties"];
            let is_known = |name: &str| known.get(name).is_some();
            if !open && !further.is_object() && *further != true {
                fields.retain(|name, _| is_known(name));
            }
            for (name, value) in fields.iter_mut() {
                if is_known(name) {
                    prune(value, &known[name]);
                } else if further.is_object() {
                    prune(value, further);
                }
            }
        }
        _ => {}
    }
}
