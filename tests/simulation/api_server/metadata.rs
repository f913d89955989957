//! What the API server itself keeps in `metadata`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use super::{
    kinds::Resource,
    refusal::{Cause, Refusal, Refused},
};

/// The metadata of an object; empty if there is none.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    match &mut object["metadata"] {
        Value::Object(metadata) => metadata,
        _ => unreachable!("it was made an object above"),
    }
}

/// A text in the metadata; empty if it is not there.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Whether an object waits for its finalizers or for its grace period.
pub fn is_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The grace period that a deletion was given.
pub fn grace(object: &Value) -> Option<i64> {
    object["metadata"]["deletionGracePeriodSeconds"].as_i64()
}

/// Times in metadata have whole seconds.
pub fn time(at: Timestamp) -> Value {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    whole.to_string().into()
}

/// Metadata as a client wrote it, in the form in which it is kept: fields that are unknown, empty
/// or not a client's to write are dropped.
///
/// # Errors
/// It has the wrong shape.
pub fn decoded(object: &mut Value) -> Result<(), Refusal> {
    let metadata = of(object);
    let typed: ObjectMeta = serde_json::from_value(Value::Object(std::mem::take(metadata)))
        .map_err(|error| Refusal::bad_request(format!("metadata: {error}")))?;
    if let Ok(Value::Object(kept)) = serde_json::to_value(typed) {
        *metadata = kept;
    }
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    metadata.retain(|_, value| !is_empty(value));
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Raises the generation, where the kind has one.
pub fn raise_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64() {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Marks an object that waits only for its finalizers.
pub fn mark_deleted(object: &mut Value, now: Timestamp) {
    if grace(object).is_none() {
        raise_generation(object);
    }
    let metadata = of(object);
    let earlier = metadata
        .get("deletionTimestamp")
        .and_then(Value::as_str)
        .and_then(|at| at.parse::<Timestamp>().ok())
        .is_some_and(|at| at <= now);
    if !earlier {
        metadata.insert("deletionTimestamp".to_owned(), time(now));
    }
    metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
}

/// An update keeps what is not a client's to change.
pub fn carry_over(new: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let keep = |metadata: &mut Map<String, Value>, field: &str| {
        match &old[field] {
            Value::Null => metadata.remove(field),
            value => metadata.insert(field.to_owned(), value.clone()),
        };
    };
    let metadata = of(new);
    keep(metadata, "generation");
    keep(metadata, "creationTimestamp");
    for field in ["uid", "name", "namespace"] {
        if !metadata.contains_key(field) {
            keep(metadata, field);
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if !old[field].is_null() {
            keep(metadata, field);
        }
    }
}

/// What an update did that it may not do.
pub fn changes_refused(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new["metadata"][field] != old["metadata"][field] {
            causes.push(Cause {
                reason: Refused::Invalid,
                field: format!("metadata.{field}"),
                message: format!(
                    "Invalid value: {}: field is immutable",
                    new["metadata"][field]
                ),
            });
        }
    }
    if is_deleted(old) {
        let held = finalizers(old);
        let added: Vec<_> = finalizers(new)
            .into_iter()
            .filter(|name| !held.contains(name))
            .collect();
        if !added.is_empty() {
            causes.push(Cause {
                reason: Refused::Forbidden,
                field: "metadata.finalizers".to_owned(),
                message: format!(
                    "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {}",
                    strings(&added)
                ),
            });
        }
    }
    causes
}

/// A list of strings as Go prints it.
fn strings(list: &[&str]) -> String {
    let quoted: Vec<_> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[]string{{{}}}", quoted.join(", "))
}

/// Whether a new name can be kept.
pub fn name_refused(name: &str) -> Vec<Cause> {
    let label = |part: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty()
            && part.chars().all(inside)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.is_empty() {
        return vec![Cause {
            reason: Refused::Required,
            field: "metadata.name".to_owned(),
            message: "Required value: name or generateName is required".to_owned(),
        }];
    }
    if name.len() <= 253 && name.split('.').all(label) {
        return Vec::new();
    }
    vec![Cause {
        reason: Refused::Invalid,
        field: "metadata.name".to_owned(),
        message: format!(
            "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ),
    }]
}

/// Checks that body and path speak of the same object, and fills in what only the path says.
///
/// # Errors
/// They differ.
pub fn place(
    object: &mut Value,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), Refusal> {
    let metadata = of(object);
    for (field, wanted) in [("name", name), ("namespace", namespace)] {
        let given = metadata.get(field).and_then(Value::as_str).unwrap_or("");
        if wanted.is_empty() || given == wanted {
            continue;
        }
        if given.is_empty() && (field == "namespace" || name.is_empty()) {
            metadata.insert(field.to_owned(), wanted.into());
            continue;
        }
        return Err(Refusal::bad_request(if field == "name" {
            format!(
                "the name of the object ({given}) does not match the name on the URL ({wanted})"
            )
        } else {
            "the namespace of the provided object does not match the namespace sent on the request"
                .to_owned()
        }));
    }
    if !resource.namespaced {
        metadata.remove("namespace");
    }
    Ok(())
}
