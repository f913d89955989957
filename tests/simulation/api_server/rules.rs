//! The CEL rules of our CRDs.

use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program};
use compozy::engine::expression::to_cel;
use serde_json::{Map, Value};

use super::{
    refusal::{Cause, Refused},
    schema::Node,
    validation::joined,
};

/// Built once: most of what a rule costs.
static STANDARD_LIBRARY: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// One rule of `x-kubernetes-validations`.
pub struct Rule {
    program: Program,
    /// Whether it speaks of `oldSelf`: then it holds for updates only.
    is_transition: bool,
    /// Whether it speaks of the object's name alone, which no update changes.
    is_of_name: bool,
    message: String,
    /// Where the failure is shown, below the node of the rule: `.tasks`.
    field: String,
}

impl Rule {
    /// Every rule of a node. One that does not compile would be refused with its CRD.
    pub fn compile_all(rules: &Value) -> Vec<Rule> {
        let rules = rules.as_array().into_iter().flatten();
        rules
            .filter_map(|rule| {
                let source = rule["rule"].as_str()?;
                let program = Program::compile(source).ok()?;
                let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
                Some(Rule {
                    is_transition: program.references().has_variable("oldSelf"),
                    is_of_name: !source.replace("self.metadata.name", "").contains("self"),
                    program,
                    message: text("message"),
                    field: text("fieldPath"),
                })
            })
            .collect()
    }

    fn applies(&self, old: Option<&Value>) -> bool {
        match old {
            None | Some(Value::Null) => !self.is_transition,
            Some(_) => !self.is_of_name,
        }
    }

    fn holds(&self, context: &Context) -> bool {
        self.program.execute(context) == Ok(cel::Value::Bool(true))
    }
}

/// The rules of a node that are broken. What they know is made once for all of them.
fn broken<'a>(node: &'a Node, new: &Value, old: Option<&Value>) -> Vec<&'a Rule> {
    let applying = node.rules.iter().filter(|rule| rule.applies(old));
    let mut applying: Vec<_> = applying.collect();
    if applying.is_empty() {
        return applying;
    }
    let seen = visible(node, new, old);
    let before = old.map(|old| visible(node, old, Some(new)));
    let mut context = Context::with_env(Arc::clone(&STANDARD_LIBRARY));
    context.add_variable_as_val("self", to_cel(&seen));
    if let Some(before) = &before {
        context.add_variable_as_val("oldSelf", to_cel(before));
    }
    applying.retain(|rule| !rule.holds(&context));
    applying
}

/// Collects the rules that `new` breaks. What is as it was is not looked at again.
pub fn rules(node: &Node, new: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    if old == Some(new) || new.is_null() {
        return;
    }
    for rule in broken(node, new, old) {
        let message = format!("Invalid value: \"{}\": {}", node.type_name, rule.message);
        let field = match (rule.field.trim_start_matches('.'), path) {
            ("", "") => "<nil>".to_owned(),
            ("", path) => path.to_owned(),
            (field, path) => joined(path, field),
        };
        causes.push(Cause::new(Refused::Invalid, &field, message));
    }
    for (name, child) in &node.properties {
        if let Some(value) = new.get(name) {
            let before = old.and_then(|old| old.get(name));
            rules(child, value, before, &joined(path, name), causes);
        }
    }
    let Some(item) = &node.items else { return };
    for (at, value) in new.as_array().into_iter().flatten().enumerate() {
        // Our lists are atomic: no item has a past.
        rules(item, value, None, &format!("{path}[{at}]"), causes);
    }
}

/// What a rule sees of a value. Null is as good as missing. Of fields that are kept although the
/// schema does not declare them, two objects are compared only in those that both have, as long as
/// they have equally many: so one can be renamed unnoticed, but not changed.
fn visible(node: &Node, value: &Value, other: Option<&Value>) -> Value {
    match value {
        Value::Object(fields) if !node.type_name.is_empty() => {
            let others = other.and_then(Value::as_object);
            let as_many = others.is_none_or(|others| others.len() == fields.len());
            let seen = fields.iter().filter_map(|(name, value)| {
                let before = others.and_then(|others| others.get(name));
                let declared = node.child(name);
                let hidden = declared.is_none() && as_many && others.is_some() && before.is_none();
                let null = declared.is_some() && value.is_null();
                let seen =
                    declared.map_or_else(|| value.clone(), |child| visible(child, value, before));
                (!hidden && !null).then(|| (name.clone(), seen))
            });
            Value::Object(seen.collect::<Map<_, _>>())
        }
        Value::Array(items) => match &node.items {
            Some(item) => {
                let before = |at| other.and_then(|other| other.get(at));
                let items = items.iter().enumerate();
                items
                    .map(|(at, value)| visible(item, value, before(at)))
                    .collect()
            }
            None => value.clone(),
        },
        other => other.clone(),
    }
}
