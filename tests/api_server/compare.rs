//! Whether two answers are the same, as far as anybody can rely on them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::sides::Answers;

/// What was seen to correspond: UIDs one to one, revisions in the same order.
#[derive(Default)]
pub struct Comparison {
    uids: BTreeMap<String, String>,
    revisions: BTreeMap<u64, u64>,
}

impl Comparison {
    /// The difference of two answers, if there is one.
    pub fn difference(&mut self, answers: &Answers) -> Option<String> {
        let (model_code, model) = &answers.model;
        let (real_code, real) = &answers.real;
        if model_code != real_code {
            return Some(format!("code {model_code} is {real_code}"));
        }
        if *real_code >= 400 {
            let (model, real) = (refusal(model), refusal(real));
            return (model != real).then(|| format!("{model}\n  is {real}"));
        }
        self.values("", &without_noise(model), &without_noise(real))
    }

    /// The difference of two bodies.
    pub fn values(&mut self, path: &str, model: &Value, real: &Value) -> Option<String> {
        match (model, real) {
            (Value::Object(left), Value::Object(right)) => {
                let mut names: Vec<_> = left.keys().chain(right.keys()).collect();
                names.sort();
                names.dedup();
                names.into_iter().find_map(|name| {
                    let here = format!("{path}.{name}");
                    match (left.get(name), right.get(name)) {
                        (Some(left), Some(right)) => self.field(&here, name, left, right),
                        (left, right) => Some(format!("{here}: {left:?} is {right:?}")),
                    }
                })
            }
            (Value::Array(left), Value::Array(right)) if left.len() == right.len() => left
                .iter()
                .zip(right)
                .enumerate()
                .find_map(|(at, (left, right))| self.values(&format!("{path}[{at}]"), left, right)),
            _ => (model != real).then(|| format!("{path}: {model} is {real}")),
        }
    }

    fn field(&mut self, path: &str, name: &str, model: &Value, real: &Value) -> Option<String> {
        let same = match (name, model.as_str(), real.as_str()) {
            ("creationTimestamp" | "deletionTimestamp" | "continue", Some(_), Some(_)) => true,
            // A busy server once answered 1 where 5 seconds were granted; why is not known.
            ("deletionGracePeriodSeconds", None, None) => (*model == 0) == (*real == 0),
            ("uid", Some(model), Some(real)) => {
                self.uids
                    .entry(model.to_owned())
                    .or_insert_with(|| real.to_owned())
                    == real
            }
            ("resourceVersion", Some(model), Some(real)) => self.same_revision(model, real),
            _ => return self.values(path, model, real),
        };
        (!same).then(|| format!("{path}: {model} is {real}"))
    }

    /// Each revision has one counterpart, and later ones have later ones.
    fn same_revision(&mut self, model: &str, real: &str) -> bool {
        let (Ok(model), Ok(real)) = (model.parse::<u64>(), real.parse::<u64>()) else {
            return model == real;
        };
        if let Some(known) = self.revisions.get(&model) {
            return *known == real;
        }
        let before = self.revisions.range(..model).next_back();
        let after = self.revisions.range(model..).next();
        let fits = before.is_none_or(|(_, before)| *before < real)
            && after.is_none_or(|(_, after)| real < *after);
        self.revisions.insert(model, real);
        fits
    }
}

/// Of a refusal: what programs look at.
fn refusal(status: &Value) -> Value {
    let details = &status["details"];
    let causes = details["causes"].as_array().into_iter().flatten();
    let mut causes: Vec<_> = causes
        .map(|cause| format!("{} {}", cause["field"], cause["reason"]))
        .collect();
    causes.sort();
    // Of several causes in one field one is enough.
    causes.dedup();
    json!({
        "reason": status["reason"],
        "name": details["name"],
        "group": details["group"],
        "kind": details["kind"],
        "causes": causes,
        "message": message(status),
    })
}

/// The message up to its first figure or quote of what differs by nature. Of invalid objects the
/// causes are compared instead.
fn message(status: &Value) -> Value {
    let text = status["message"].as_str().unwrap_or_default();
    match status["code"].as_u64() {
        Some(400 | 422) => Value::Null,
        _ => {
            let end = text.find(['(', ',']).unwrap_or(text.len());
            text[..end].into()
        }
    }
}

/// Without what the model does not have: who wrote what, and the older form of Events.
fn without_noise(value: &Value) -> Value {
    match value {
        Value::Object(fields) if fields.get("type") == Some(&json!("ERROR")) => {
            json!({"ERROR": refusal(&fields["object"])})
        }
        Value::Object(fields) => {
            // A list's revision is that of everything, of which the real server has more.
            let is_list = fields.contains_key("items");
            let mut kept: serde_json::Map<_, _> = fields
                .iter()
                .filter(|(name, _)| *name != "managedFields" && !name.starts_with("deprecated"))
                .map(|(name, value)| (name.clone(), without_noise(value)))
                .collect();
            if is_list && let Some(Value::Object(metadata)) = kept.get_mut("metadata") {
                metadata.remove("resourceVersion");
            }
            Value::Object(kept)
        }
        Value::Array(items) => items.iter().map(without_noise).collect(),
        other => other.clone(),
    }
}
