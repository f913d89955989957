//! The CRDs as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{ExecutorPool, TaskExecution, Tool, Workflow};

/// Every CRD, with the name of its file.
///
/// # Errors
/// Only if a CRD cannot be written as JSON and read back.
pub fn all() -> Result<[(&'static str, CustomResourceDefinition); 4], serde_json::Error> {
    Ok([
        ("workflows.yaml", tidied(Workflow::crd())?),
        ("taskexecutions.yaml", tidied(TaskExecution::crd())?),
        ("tools.yaml", tidied(Tool::crd())?),
        ("executorpools.yaml", tidied(ExecutorPool::crd())?),
    ])
}

/// schemars writes a `default` for every `#[serde(default)]`, which the API server would then
/// store, and keeps the line breaks of doc comments, which `kubectl explain` would show.
fn tidied(crd: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    tidy(&mut value);
    serde_json::from_value(value)
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("default");
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text
                    .replace("\n\n", "\u{0}")
                    .replace('\n', " ")
                    .replace('\u{0}', "\n\n");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crd_stays_under_what_kubectl_apply_and_helm_can_hold() {
        for (file, crd) in all().unwrap() {
            let size = serde_json::to_vec(&crd).unwrap().len();
            assert!(size < 250 * 1024, "{file} has {size} bytes");
        }
    }

    #[test]
    fn no_crd_carries_a_default() {
        for (file, crd) in all().unwrap() {
            let json = serde_json::to_string(&crd).unwrap();
            assert!(!json.contains("\"default\":"), "{file} has a default");
        }
    }
}
