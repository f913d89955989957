//! What a schema refuses, apart from its rules.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    refusal::{Cause, Refused},
    schema::{Bounds, Node},
};

/// Collects what is wrong with `new`. What is as it was in `old` is taken as it is, so that a
/// stricter schema does not lock older objects up.
pub fn validate(
    node: &Node,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    if old == Some(new) || new.is_null() && node.nullable {
        return;
    }
    one_of(node, new, path, causes);
    if !has_type(node, new) {
        causes.push(Cause::new(
            Refused::Type,
            path,
            format!(
                "Invalid value: \"{kind}\": {path} in body must be of type {wanted}: \"{kind}\"",
                kind = type_of(new),
                wanted = node.type_name
            ),
        ));
        return;
    }
    match new {
        Value::String(text) => string(node, text, path, causes),
        Value::Number(number) => range(node, number.as_f64().unwrap_or(0.0), path, causes),
        Value::Array(items) => array(node, items, old, path, causes),
        Value::Object(_) => object(node, new, old, path, causes),
        _ => {}
    }
}

fn has_type(node: &Node, value: &Value) -> bool {
    if node.int_or_string {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match node.type_name.as_str() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn one_of(node: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(allowed) = &node.allowed else { return };
    if !allowed.contains(value) {
        let names: Vec<_> = allowed.iter().map(Value::to_string).collect();
        causes.push(Cause::new(
            Refused::NotSupported,
            path,
            format!(
                "Unsupported value: {value}: supported values: {}",
                names.join(", ")
            ),
        ));
    }
}

fn string(node: &Node, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let mut refuse = |why: String| {
        let message = format!("Invalid value: \"{text}\": {path} in body {why}");
        causes.push(Cause::new(Refused::Invalid, path, message));
    };
    let length = text.chars().count();
    if let Some(least) = node.length.0.filter(|least| length < *least) {
        refuse(format!("should be at least {least} chars long"));
    }
    if let Some(pattern) = node.pattern.as_ref().filter(|p| !p.is_match(text)) {
        refuse(format!("should match '{pattern}'"));
    }
    if node.is_time && text.parse::<Timestamp>().is_err() {
        let message = format!(
            "Invalid value: \"{text}\": {path} in body must be of type date-time: \"{text}\""
        );
        causes.push(Cause::new(Refused::Type, path, message));
    }
    if let Some(most) = node.length.1.filter(|most| length > *most) {
        let message = format!("Too long: may not be more than {most} bytes");
        causes.push(Cause::new(Refused::TooLong, path, message));
    }
}

fn range(node: &Node, number: f64, path: &str, causes: &mut Vec<Cause>) {
    let (least, most) = node.range;
    let mut refuse = |word: &str, bound: f64| {
        let message = format!(
            "Invalid value: {number}: {path} in body should be {word} than or equal to {bound}"
        );
        causes.push(Cause::new(Refused::Invalid, path, message));
    };
    if let Some(least) = least.filter(|least| number < *least) {
        refuse("greater", least);
    }
    if let Some(most) = most.filter(|most| number > *most) {
        refuse("less", most);
    }
}

fn array(node: &Node, items: &[Value], old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    too_few_or_many(node.count, items.len(), path, causes);
    let Some(item) = &node.items else { return };
    for (at, value) in items.iter().enumerate() {
        // Our lists are atomic: an item has no past of its own, unless nothing moved.
        let before = old.and_then(|old| old.get(at)).filter(|old| *old == value);
        validate(item, value, before, &format!("{path}[{at}]"), causes);
    }
}

fn too_few_or_many(bounds: Bounds, count: usize, path: &str, causes: &mut Vec<Cause>) {
    if let Some(least) = bounds.0.filter(|least| count < *least) {
        let message =
            format!("Invalid value: {count}: {path} in body should have at least {least} items");
        causes.push(Cause::new(Refused::Invalid, path, message));
    }
    if let Some(most) = bounds.1.filter(|most| count > *most) {
        let message = format!("Too many: {count}: must have at most {most} items");
        causes.push(Cause::new(Refused::TooMany, path, message));
    }
}

fn object(node: &Node, new: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    for name in &node.required {
        if new.get(name).is_none() {
            causes.push(Cause::new(
                Refused::Required,
                &joined(path, name),
                "Required value",
            ));
        }
    }
    for (name, value) in new.as_object().into_iter().flatten() {
        // Metadata has checks of its own.
        if path.is_empty() && name == "metadata" {
            continue;
        }
        if let Some(child) = node.child(name) {
            let before = old.and_then(|old| old.get(name));
            validate(child, value, before, &joined(path, name), causes);
        }
    }
}

/// The path of a field.
pub fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
