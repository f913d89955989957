//! The fingerprint of a run's spec, pinned when the run begins.
//!
//! The CRD's CEL rules refuse a change at the API server; this is the second line, for what they
//! may not see (their equality is only promised for what the schema declares, and `inputs` and
//! `with` are open) and for a CRD that somebody replaced.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::WorkflowSpec;

/// The fields of the spec that may change.
const MUTABLE: [&str; 3] = ["suspend", "cancel", "ttl"];

/// The hash over the canonical JSON of `spec` less what may change.
///
/// # Errors
/// Only if the spec cannot be written as JSON.
pub fn spec_hash(spec: &WorkflowSpec) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(spec)?;
    if let Value::Object(map) = &mut value {
        MUTABLE.iter().for_each(|field| drop(map.remove(*field)));
    }
    Ok(fingerprint(&value))
}

/// The hash over the canonical JSON of a value, in 32 hexadecimal digits.
pub fn fingerprint(value: &Value) -> String {
    let mut digest = Sha256::new();
    write_canonical(value, &mut digest);
    let digest = digest.finalize();
    let bytes = digest.iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Keys sorted, whatever order the map keeps: independent of serde_json's features.
fn write_canonical(value: &Value, digest: &mut Sha256) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            digest.update(b"{");
            for (key, child) in entries {
                digest.update(Value::from(key.as_str()).to_string());
                digest.update(b":");
                write_canonical(child, digest);
                digest.update(b",");
            }
            digest.update(b"}");
        }
        Value::Array(items) => {
            digest.update(b"[");
            for item in items {
                write_canonical(item, digest);
                digest.update(b",");
            }
            digest.update(b"]");
        }
        scalar => digest.update(scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hash(value: Value) -> String {
        spec_hash(&serde_json::from_value(value).unwrap()).unwrap()
    }

    fn spec(inputs: Value) -> Value {
        json!({"inputs": inputs, "tasks": [{"name": "a", "container": {"image": "x"}}]})
    }

    #[test]
    fn a_changed_input_changes_the_hash() {
        assert_ne!(hash(spec(json!({"a": 1}))), hash(spec(json!({"b": 1}))));
    }

    #[test]
    fn what_may_change_does_not_change_the_hash() {
        let mut changed = spec(json!({}));
        changed["cancel"] = json!({"reason": "enough"});
        changed["suspend"] = json!(true);
        changed["ttl"] = json!({"afterSucceeded": "1h"});
        assert_eq!(hash(changed), hash(spec(json!({}))));
    }

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        assert_eq!(
            hash(spec(json!({"b": [1, "x"], "a": null}))),
            "f7aac69fe327cef8e3946752afe170bc"
        );
    }
}
