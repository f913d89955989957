//! What an expression can see, and one evaluation with it.

use super::compiled::Compiled;
use super::convert::{Output, map_to_cel, to_cel};
use super::error::EvaluationError;
use super::explain::explain;
use super::meter::Meter;
use super::references::{Keys, References, TaskFields};
use cel::common::types::{CelInt, CelMap, CelString};
use cel::common::value::Val;
use cel::{Context, Env};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// What the expressions of a workflow can see. All of it is borrowed; only what the
/// expressions refer to is converted.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `inputs`: those of the workflow.
    pub inputs: &'a Value,
    /// `workflow`
    pub workflow: WorkflowScope<'a>,
    /// `tasks`, by name. Those that a template refers to must be here, see [`References`]; others
    /// may be left out.
    pub tasks: &'a BTreeMap<String, TaskScope<'a>>,
    /// `item` and `index`: of an item of a task with `forEach`.
    pub item: Option<ItemScope<'a>>,
}

/// `item` and `index`.
#[derive(Clone, Copy, Debug)]
pub struct ItemScope<'a> {
    /// The item.
    pub value: &'a Value,
    /// Its place in the list, from 0.
    pub index: u32,
}

/// `workflow`: the run itself.
#[derive(Clone, Copy, Debug)]
pub struct WorkflowScope<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its UID, the `workflow_exec_id`.
    pub uid: &'a str,
}

/// `tasks.x`: what is known of a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskScope<'a> {
    /// Its phase, such as `Succeeded`.
    pub phase: &'a str,
    /// Its outputs; `{}` if it failed or was skipped.
    pub outputs: &'a Value,
    /// Its error, if it failed.
    pub error: Option<&'a Value>,
    /// How many attempts it took.
    pub attempts: u32,
}

/// CEL's standard library, without optional values: neither their syntax nor their functions are in
/// what we promise.
pub(super) fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: LazyLock<Arc<Env>> =
        LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));
    &ENVIRONMENT
}

/// One evaluation: of one expression, or of all in a template. They share the data and the bounds.
pub(super) struct Session<'v> {
    context: Context<'v, 'v>,
    meter: Arc<Meter>,
    output: Output,
}

impl<'v> Session<'v> {
    /// Converts what `references` name.
    pub(super) fn new(
        scope: &Scope<'v>,
        references: &'v References,
    ) -> Result<Self, EvaluationError> {
        let meter = Meter::new();
        let mut context = Context::with_env(Arc::clone(environment()));
        let installed = meter.install(&mut context);
        installed.map_err(|error| EvaluationError::new(error.to_string()))?;
        if references.inputs {
            context.add_variable_as_val("inputs", object(scope.inputs, &references.input_keys));
        }
        if references.workflow {
            context.add_variable_as_val("workflow", Box::new(workflow(&scope.workflow)));
        }
        if !references.tasks.is_empty() {
            context.add_variable_as_val("tasks", Box::new(tasks(scope, references)?));
        }
        if let Some(name) = references.item_name() {
            let item = scope
                .item
                .ok_or_else(|| EvaluationError::new(format!("`{name}` is not known here")))?;
            let index: Box<dyn Val + 'v> = Box::new(CelInt::from(i64::from(item.index)));
            context.add_variable_as_val("item", to_cel(item.value));
            context.add_variable_as_val("index", index);
        }
        Ok(Self {
            context,
            meter,
            output: Output::new(),
        })
    }

    /// The result of `compiled`, which will stand `depth` levels deep in something larger.
    pub(super) fn evaluate(
        &mut self,
        compiled: &Compiled,
        depth: usize,
    ) -> Result<Value, EvaluationError> {
        let result = cel::Value::resolve_val(compiled.tree(), &self.context);
        if self.meter.is_exhausted() {
            let message = format!("the evaluation takes more than {} steps", super::MAX_STEPS);
            return Err(EvaluationError::new(message).in_expression(compiled.source()));
        }
        result
            .map_err(|error| explain(&error, compiled.tree()))
            .and_then(|value| self.output.take(value.as_ref(), depth))
            .map_err(|message| EvaluationError::new(message).in_expression(compiled.source()))
    }

    /// Counts text that becomes part of the result as it is.
    pub(super) fn count(&mut self, bytes: usize) -> Result<(), EvaluationError> {
        self.output.count(bytes).map_err(EvaluationError::new)
    }
}

fn text<'v>(text: &'v str) -> Box<dyn Val + 'v> {
    Box::new(CelString::from(text))
}

/// The part of `value` that is used.
fn object<'v>(value: &'v Value, keys: &Keys) -> Box<dyn Val + 'v> {
    match (value, keys) {
        (Value::Object(fields), Keys::Only(keys)) => {
            let used = keys.iter().filter_map(|key| fields.get_key_value(key));
            Box::new(map_to_cel(
                used.map(|(key, value)| (key.as_str(), to_cel(value))),
            ))
        }
        _ => to_cel(value),
    }
}

fn workflow<'v>(workflow: &WorkflowScope<'v>) -> CelMap<'v> {
    map_to_cel([
        ("name", text(workflow.name)),
        ("namespace", text(workflow.namespace)),
        ("uid", text(workflow.uid)),
    ])
}

fn tasks<'v>(scope: &Scope<'v>, references: &'v References) -> Result<CelMap<'v>, EvaluationError> {
    let mut tasks = Vec::new();
    for (name, fields) in &references.tasks {
        let Some(known) = scope.tasks.get(name) else {
            return Err(EvaluationError::new(format!(
                "nothing is known of the task `{name}`"
            )));
        };
        let task: Box<dyn Val + 'v> =
            Box::new(task(known, *fields, references.output_keys.get(name)));
        tasks.push((name.as_str(), task));
    }
    Ok(map_to_cel(tasks))
}

fn task<'v>(task: &TaskScope<'v>, used: TaskFields, keys: Option<&Keys>) -> CelMap<'v> {
    let mut fields = Vec::new();
    if used.phase {
        fields.push(("phase", text(task.phase)));
    }
    if used.outputs {
        fields.push(("outputs", object(task.outputs, keys.unwrap_or(&Keys::All))));
    }
    if used.error {
        fields.push(("error", to_cel(task.error.unwrap_or(&Value::Null))));
    }
    if used.attempts {
        let attempts: Box<dyn Val + 'v> = Box::new(CelInt::from(i64::from(task.attempts)));
        fields.push(("attempts", attempts));
    }
    map_to_cel(fields)
}
