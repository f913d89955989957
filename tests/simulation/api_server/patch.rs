//! Patches: what is written into what.

use serde_json::{Map, Value};

/// RFC 7396: objects are merged, null removes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// How a strategic merge treats the list under a key.
enum ListMerge {
    /// The items are the key: the new ones are added.
    Set,
    /// Items with the same value of this field are merged.
    By(&'static str),
    Replace,
}

/// The lists that this model knows to be merged; all others are replaced.
fn list_merge(key: &str) -> ListMerge {
    match key {
        "finalizers" => ListMerge::Set,
        "ownerReferences" => ListMerge::By("uid"),
        "conditions" => ListMerge::By("type"),
        "containers" | "initContainers" | "volumes" | "env" => ListMerge::By("name"),
        _ => ListMerge::Replace,
    }
}

const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Kubernetes' strategic merge, as far as it is needed: lists with keys, and
/// `$deleteFromPrimitiveList`.
pub fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            remove_items(target, list, value);
        } else if key.starts_with('$') {
            // `$setElementOrder` and the like only order what is merged anyway.
        } else if value.is_null() {
            target.remove(key);
        } else if let Value::Array(items) = value {
            merge_list(target.entry(key.clone()).or_insert(Value::Null), key, items);
        } else {
            strategic(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn remove_items(target: &mut Map<String, Value>, list: &str, items: &Value) {
    let Some(Value::Array(kept)) = target.get_mut(list) else {
        return;
    };
    let gone = items.as_array().map_or(&[][..], Vec::as_slice);
    kept.retain(|item| !gone.contains(item));
}

fn merge_list(target: &mut Value, key: &str, items: &[Value]) {
    let Value::Array(list) = target else {
        *target = Value::Array(items.to_vec());
        return;
    };
    match list_merge(key) {
        ListMerge::Replace => *list = items.to_vec(),
        ListMerge::Set => {
            for item in items {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        ListMerge::By(field) => {
            for item in items {
                match list.iter_mut().find(|old| old[field] == item[field]) {
                    Some(old) => strategic(old, item),
                    None => list.push(item.clone()),
                }
            }
        }
    }
}
