//! The CRDs as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{TaskExecution, Workflow};

/// Every CRD, with the name of its file.
///
/// # Errors
/// Only if a CRD cannot be written as JSON and read back.
pub fn all() -> Result<[(&'static str, CustomResourceDefinition); 2], serde_json::Error> {
    Ok([
        ("workflows.yaml", without_defaults(Workflow::crd())?),
        (
            "taskexecutions.yaml",
            without_defaults(TaskExecution::crd())?,
        ),
    ])
}

/// schemars writes a `default` for every `#[serde(default)]`; the API server would then store it.
fn without_defaults(
    crd: CustomResourceDefinition,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    drop_defaults(&mut value);
    serde_json::from_value(value)
}

fn drop_defaults(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("default");
            map.values_mut().for_each(drop_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_defaults),
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
