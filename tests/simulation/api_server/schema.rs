//! The schemas of our CRDs, compiled from what `make crds` writes: what of an object is kept.
//! What is refused is in `validation` and `rules`.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use regex::Regex;
use serde_json::Value;

use super::{
    kinds::Kind,
    refusal::{Cause, Refused},
    rules::{Rule, rules},
    validation::validate,
};

/// The schemas of our kinds.
pub struct Schemas {
    workflow: Node,
    task_execution: Node,
    tool: Node,
}

/// A schema, or a part of one. Of OpenAPI it has what our CRDs use; a test fails when they use more.
#[derive(Default)]
pub struct Node {
    /// `string`, `object` …; empty: anything.
    pub type_name: String,
    pub nullable: bool,
    /// Unknown fields are kept.
    pub open: bool,
    pub int_or_string: bool,
    pub properties: BTreeMap<String, Node>,
    pub items: Option<Box<Node>>,
    /// What the values of a map are.
    pub values: Option<Box<Node>>,
    pub required: Vec<String>,
    pub allowed: Option<Vec<Value>>,
    pub pattern: Option<Regex>,
    pub is_time: bool,
    pub length: Bounds,
    pub count: Bounds,
    pub range: (Option<f64>, Option<f64>),
    pub rules: Vec<Rule>,
}

/// The least and the most.
pub type Bounds = (Option<usize>, Option<usize>);

/// Fields that every object has, whatever its schema says.
const ALWAYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schemas {
    /// Those that `make crds` writes.
    pub fn ours() -> Arc<Schemas> {
        static OURS: OnceLock<Arc<Schemas>> = OnceLock::new();
        OURS.get_or_init(|| {
            Arc::new(Schemas {
                workflow: installed("Workflow"),
                task_execution: installed("TaskExecution"),
                tool: installed("Tool"),
            })
        })
        .clone()
    }

    /// The schema of a custom kind.
    fn of(&self, kind: Kind) -> &Node {
        match kind {
            Kind::TaskExecution => &self.task_execution,
            Kind::Tool => &self.tool,
            _ => &self.workflow,
        }
    }

    /// Drops what the schema does not know.
    pub fn prune(&self, kind: Kind, object: &mut Value) {
        let root = self.of(kind);
        whole_numbers(object);
        if let Value::Object(fields) = object {
            fields.retain(|name, value| {
                ALWAYS.contains(&name.as_str())
                    || root
                        .properties
                        .get(name)
                        .is_some_and(|node| node.keeps(value))
            });
            for (name, node) in &root.properties {
                if let Some(value) = fields.get_mut(name) {
                    node.prune(value);
                }
            }
        }
    }

    /// What is wrong with an object. What an update leaves as it was is not looked at again.
    /// `causes` has what is wrong with the metadata.
    pub fn objections(
        &self,
        kind: Kind,
        new: &Value,
        old: Option<&Value>,
        causes: &mut Vec<Cause>,
    ) {
        let root = self.of(kind);
        validate(root, new, old, "", causes);
        if causes.iter().any(Cause::blocks_rules) {
            causes.push(Cause::new(
                Refused::Invalid,
                "<nil>",
                "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            ));
        } else {
            let before = old.map(seen_by_rules);
            rules(root, &seen_by_rules(new), before.as_ref(), "", causes);
        }
    }
}

/// Of the metadata, rules see the name alone.
fn seen_by_rules(object: &Value) -> Value {
    let mut seen = object.clone();
    seen["metadata"] = serde_json::json!({});
    for field in ["name", "generateName"] {
        if let Some(value) = object["metadata"].get(field) {
            seen["metadata"][field] = value.clone();
        }
    }
    seen
}

fn installed(kind: &str) -> Node {
    let crds = compozy::api::crd::all().into_iter().flatten();
    let root = crds
        .filter_map(|(_, crd)| serde_json::to_value(crd).ok())
        .find(|crd| crd["spec"]["names"]["kind"] == kind)
        .map(|crd| Node::compile(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]));
    root.unwrap_or_default()
}

impl Node {
    fn compile(schema: &Value) -> Node {
        let text = |name: &str| schema[name].as_str().unwrap_or_default();
        let count = |name: &str| schema[name].as_u64().and_then(|n| usize::try_from(n).ok());
        let is = |name: &str| schema[name] == true;
        let boxed = |schema: &Value| schema.is_object().then(|| Box::new(Node::compile(schema)));
        let properties = schema["properties"].as_object().into_iter().flatten();
        Node {
            type_name: text("type").to_owned(),
            nullable: is("nullable"),
            open: is("x-kubernetes-preserve-unknown-fields"),
            int_or_string: is("x-kubernetes-int-or-string"),
            properties: properties
                .map(|(name, schema)| (name.clone(), Node::compile(schema)))
                .collect(),
            items: boxed(&schema["items"]),
            values: boxed(&schema["additionalProperties"]),
            required: strings(&schema["required"]),
            allowed: schema["enum"].as_array().cloned(),
            pattern: schema["pattern"].as_str().and_then(|p| Regex::new(p).ok()),
            is_time: text("format") == "date-time",
            length: (count("minLength"), count("maxLength")),
            count: (count("minItems"), count("maxItems")),
            range: (schema["minimum"].as_f64(), schema["maximum"].as_f64()),
            rules: Rule::compile_all(&schema["x-kubernetes-validations"]),
        }
    }

    fn prune(&self, value: &mut Value) {
        match value {
            Value::Array(items) => {
                if let Some(node) = &self.items {
                    items.iter_mut().for_each(|item| node.prune(item));
                }
            }
            Value::Object(fields) => {
                if !self.open && self.values.is_none() {
                    fields.retain(|name, _| self.properties.contains_key(name));
                }
                fields.retain(|name, value| self.child(name).is_none_or(|node| node.keeps(value)));
                for (name, value) in fields.iter_mut() {
                    if let Some(node) = self.child(name) {
                        node.prune(value);
                    }
                }
            }
            _ => {}
        }
    }

    /// Null where it may not be is as if it were not written.
    fn keeps(&self, value: &Value) -> bool {
        self.nullable || !value.is_null()
    }

    /// The schema of a field.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(self.values.as_deref())
    }
}

/// 2.0 is stored as 2, also where nothing is declared.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Number(number) if number.is_f64() => {
            let whole = format!("{:.0}", number.as_f64().unwrap_or(0.5));
            if let Some(whole) = whole
                .parse::<i64>()
                .ok()
                .filter(|whole| number.to_string() == format!("{whole}.0"))
            {
                *value = whole.into();
            }
        }
        _ => {}
    }
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}
