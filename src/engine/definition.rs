//! A workflow's spec, understood: names resolved to positions, expressions compiled, nothing
//! left that could turn out wrong except by data.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Container;
use serde_json::{Map, Value};

use crate::{
    api::{
        FailurePolicy, ForEach, ItemFailurePolicy, OnFailure, PodTemplate, PoolRef, Task,
        TaskDefaults, ToolRef, Ttl, WorkflowSpec,
    },
    engine::{
        admission::{self, AllowList},
        container::ContainerTemplate,
        expression::{References, ValueTemplate},
        field_error::FieldError,
        graph,
        pod::merge_templates,
    },
};

/// A larger spec is refused: etcd and the API server hold at most 1.5 MiB an object, and status
/// needs its share.
const MAX_SPEC_BYTES: usize = 768 * 1024;

/// At most so many errors are reported at once.
const MAX_ERRORS: usize = 10;

/// Used when `spec.parallelism` is not set.
const DEFAULT_PARALLELISM: usize = 50;

/// How many items a `forEach` may have where the installation does not say.
pub const DEFAULT_MAX_ITEMS: u32 = 10_000;

/// What an installation adds to every workflow.
#[derive(Clone, Debug)]
pub struct Installation {
    /// What pods may ask for.
    pub allow: AllowList,
    /// The overlay under every workflow's own.
    pub pod_template: PodTemplate,
    /// How long finished runs stay that do not say.
    pub ttl: Ttl,
    /// How many items a `forEach` may have.
    pub max_items: u32,
}

impl Default for Installation {
    fn default() -> Installation {
        Installation {
            allow: AllowList::default(),
            pod_template: PodTemplate::default(),
            ttl: Ttl::default(),
            max_items: DEFAULT_MAX_ITEMS,
        }
    }
}

/// A spec that can be run.
#[derive(Debug)]
pub struct Definition {
    tasks: Vec<TaskDefinition>,
    positions: HashMap<String, usize>,
    parallelism: usize,
    failure_policy: FailurePolicy,
    outputs: Option<ValueTemplate>,
    defaults: TaskDefaults,
    inputs: Value,
    max_items: u32,
}

impl TaskDefinition {
    /// The tasks that its expressions use.
    pub fn task_names(&self) -> impl Iterator<Item = &str> {
        let with = self
            .with
            .iter()
            .flat_map(|with| with.references().task_names());
        let container = self.executor.container();
        with.chain(
            container
                .into_iter()
                .flat_map(ContainerTemplate::task_names),
        )
    }
}

/// A task that can be run.
#[derive(Debug)]
pub struct TaskDefinition {
    /// The task as written.
    pub spec: Task,
    /// Positions of the tasks that it waits for.
    pub dependencies: Vec<usize>,
    /// Positions of the tasks that wait for it.
    pub dependents: Vec<usize>,
    /// Whether its failure fails the run.
    pub on_failure: OnFailure,
    /// Its inputs.
    pub with: Option<ValueTemplate>,
    /// What it is executed for, each by itself.
    pub for_each: Option<ForEachDefinition>,
    /// What runs it.
    pub executor: Executor,
}

/// What runs a task.
#[derive(Debug)]
pub enum Executor {
    /// A pod for each attempt.
    Container {
        /// Its container.
        container: Box<ContainerTemplate>,
        /// What is around it: installation, workflow and task merged.
        pod_template: Box<PodTemplate>,
    },
    /// A pool, one of whose workers runs each attempt.
    Pool(PoolRef),
    /// A tool that each attempt calls.
    Tool(ToolRef),
}

impl Executor {
    /// The container, if it is one.
    pub fn container(&self) -> Option<&ContainerTemplate> {
        match self {
            Executor::Container { container, .. } => Some(container),
            Executor::Pool(_) | Executor::Tool(_) => None,
        }
    }
}

/// A `forEach` that can be run.
#[derive(Debug)]
pub struct ForEachDefinition {
    /// A list, or an expression that gives one.
    pub items: ValueTemplate,
    /// At most so many items under way.
    pub max_parallel: usize,
    /// What a failed item means for the others.
    pub failure_policy: ItemFailurePolicy,
}

impl Definition {
    /// Understands `spec`, or says everything that is wrong with it (the first few).
    ///
    /// # Errors
    /// Each error names the field and the way out; they make a run `InvalidSpec`.
    pub fn compile(
        spec: &WorkflowSpec,
        installation: &Installation,
    ) -> Result<Definition, Vec<FieldError>> {
        check_size(spec)?;
        let graph = graph::resolve(&spec.tasks)?;
        let mut errors = match &spec.pod_template {
            Some(template) => {
                admission::check_template(template, &installation.allow, "spec.podTemplate")
            }
            None => Vec::new(),
        };
        let mut tasks = Vec::with_capacity(spec.tasks.len());
        for (position, task) in spec.tasks.iter().enumerate() {
            match compile_task(spec, position, task, &graph, installation) {
                Ok(task) => tasks.push(task),
                Err(found) => errors.extend(found),
            }
            if errors.len() >= MAX_ERRORS {
                return Err(errors);
            }
        }
        let outputs = compile_outputs(spec, &graph)
            .map_err(|error| errors.push(error))
            .ok()
            .flatten();
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Definition {
            tasks,
            positions: graph.positions,
            parallelism: spec
                .parallelism
                .map_or(DEFAULT_PARALLELISM, |limit| limit as usize),
            failure_policy: spec.failure_policy.unwrap_or_default(),
            outputs,
            defaults: spec.task_defaults.clone().unwrap_or_default(),
            inputs: Value::Object(spec.inputs.clone().unwrap_or_default()),
            max_items: installation.max_items,
        })
    }

    /// The tasks, in the order of the spec.
    pub fn tasks(&self) -> &[TaskDefinition] {
        &self.tasks
    }

    /// The position of a task.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// At most so many task executions under way.
    pub fn parallelism(&self) -> usize {
        self.parallelism
    }

    /// What a failed task means for the others.
    pub fn failure_policy(&self) -> FailurePolicy {
        self.failure_policy
    }

    /// The run's inputs.
    pub fn inputs(&self) -> &Value {
        &self.inputs
    }

    /// How many items a `forEach` may have.
    pub fn max_items(&self) -> u32 {
        self.max_items
    }

    /// The run's outputs.
    pub fn outputs(&self) -> Option<&ValueTemplate> {
        self.outputs.as_ref()
    }

    /// Values for tasks that do not set them.
    pub fn defaults(&self) -> &TaskDefaults {
        &self.defaults
    }
}

fn check_size(spec: &WorkflowSpec) -> Result<(), Vec<FieldError>> {
    let size = serde_json::to_vec(spec)
        .map(|json| json.len())
        .unwrap_or(usize::MAX);
    if size <= MAX_SPEC_BYTES {
        return Ok(());
    }
    Err(vec![FieldError::new(
        "spec",
        format!(
            "has {size} bytes as JSON, the limit is {MAX_SPEC_BYTES}: move large data out of inputs \
             and scripts into images or ConfigMaps, or split the workflow"
        ),
    )])
}

fn compile_task(
    spec: &WorkflowSpec,
    position: usize,
    task: &Task,
    graph: &graph::Graph,
    installation: &Installation,
) -> Result<TaskDefinition, Vec<FieldError>> {
    let path = format!("spec.tasks[{position}]");
    let mut errors = Vec::new();
    let executor = compile_executor(spec, task, installation, &path, &mut errors);
    let with = match task
        .with
        .as_ref()
        .map(|with| ValueTemplate::compile(with, &format!("{path}.with")))
        .transpose()
    {
        Ok(with) => with,
        Err(error) => {
            errors.push(error.into());
            None
        }
    };
    let for_each = match task.for_each.as_ref().map(|it| compile_items(it, &path)) {
        None => None,
        Some(Ok(for_each)) => Some(for_each),
        Some(Err(error)) => {
            errors.push(error);
            None
        }
    };
    let of_items = for_each.iter().flat_map(|it| it.items.uses());
    for (place, uses) in of_items {
        errors.extend(check_tasks(graph, position, uses, place));
        errors.extend(check_item(uses, place));
    }
    let of_with = with.iter().flat_map(ValueTemplate::uses);
    let of_with = of_with.map(|(place, uses)| (place.to_owned(), uses));
    let container = executor.as_ref().and_then(Executor::container);
    let of_container = container.into_iter().flat_map(ContainerTemplate::uses);
    for (place, uses) in of_with.chain(of_container) {
        errors.extend(check_tasks(graph, position, uses, &place));
        if task.for_each.is_none() {
            errors.extend(check_item(uses, &place));
        }
    }
    match executor {
        Some(executor) if errors.is_empty() => Ok(TaskDefinition {
            dependencies: graph.dependencies[position].clone(),
            dependents: graph.dependents[position].clone(),
            on_failure: task.on_failure.unwrap_or_default(),
            with,
            for_each,
            executor,
            spec: task.clone(),
        }),
        _ => Err(errors),
    }
}

fn compile_executor(
    spec: &WorkflowSpec,
    task: &Task,
    installation: &Installation,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Option<Executor> {
    let executor = match (&task.container, &task.pool, &task.tool) {
        (Some(container), None, None) => {
            return compile_container(spec, task, container, installation, path, errors);
        }
        (None, Some(pool), None) => Executor::Pool(pool.clone()),
        (None, None, Some(tool)) => Executor::Tool(tool.clone()),
        _ => {
            let message = "a task needs exactly one of: container, pool, tool";
            errors.push(FieldError::new(path, message));
            return None;
        }
    };
    let of_a_pod = [
        ("podTemplate", task.pod_template.is_some()),
        ("imagePullTimeout", task.image_pull_timeout.is_some()),
    ];
    for (field, _) in of_a_pod.iter().filter(|(_, given)| *given) {
        errors.push(FieldError::new(
            format!("{path}.{field}"),
            "is for a task with container: this one has no pod of its own",
        ));
    }
    Some(executor)
}

fn compile_container(
    spec: &WorkflowSpec,
    task: &Task,
    container: &Container,
    installation: &Installation,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Option<Executor> {
    if let Some(template) = &task.pod_template {
        let path = format!("{path}.podTemplate");
        errors.extend(admission::check_template(
            template,
            &installation.allow,
            &path,
        ));
    }
    let path = format!("{path}.container");
    errors.extend(admission::check_container(
        container,
        &installation.allow,
        &path,
    ));
    let template = ContainerTemplate::compile(container, &path)
        .map_err(|error| errors.push(error))
        .ok()?;
    Some(Executor::Container {
        container: Box::new(template),
        pod_template: Box::new(merge_templates(
            Some(&installation.pod_template),
            spec.pod_template.as_ref(),
            task.pod_template.as_ref(),
        )),
    })
}

fn compile_outputs(
    spec: &WorkflowSpec,
    graph: &graph::Graph,
) -> Result<Option<ValueTemplate>, FieldError> {
    let Some(outputs) = &spec.outputs else {
        return Ok(None);
    };
    let outputs: Map<String, Value> = outputs.clone();
    let template = ValueTemplate::compile(&Value::Object(outputs), "spec.outputs")?;
    let wrong = template.uses().find_map(|(place, uses)| {
        let mut names = uses.task_names();
        let unknown = names.find_map(|name| graph.check_known(name, place));
        unknown.or_else(|| check_item(uses, place))
    });
    wrong.map_or(Ok(Some(template)), Err)
}

fn compile_items(for_each: &ForEach, path: &str) -> Result<ForEachDefinition, FieldError> {
    let path = format!("{path}.forEach.items");
    let items = ValueTemplate::compile(&for_each.items, &path)?;
    if !for_each.items.is_array() && !items.is_one_expression() {
        let what = match &for_each.items {
            Value::String(_) => "this text is not one whole expression",
            Value::Object(_) => "this is an object",
            _ => "this is neither",
        };
        let message = format!(
            "needs a list, or one whole expression that gives one, such as ${{{{ inputs.list }}}}; {what}"
        );
        return Err(FieldError::new(path, message));
    }
    Ok(ForEachDefinition {
        items,
        max_parallel: for_each
            .max_parallel
            .map_or(usize::MAX, |limit| limit as usize),
        failure_policy: for_each.failure_policy.unwrap_or_default(),
    })
}

/// What is wrong with the tasks that an expression uses.
fn check_tasks(
    graph: &graph::Graph,
    position: usize,
    uses: &References,
    place: &str,
) -> Vec<FieldError> {
    let names = uses.task_names();
    names
        .filter_map(|name| graph.check_reference(position, name, place))
        .collect()
}

/// An error if an expression uses what there is only beside a `forEach`.
fn check_item(uses: &References, place: &str) -> Option<FieldError> {
    let name = uses.item_name()?;
    let message = format!(
        "uses {name}, which is known only in with and container of a task that has forEach"
    );
    Some(FieldError::new(place, message))
}
