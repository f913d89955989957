//! A workflow's spec, understood: names resolved to positions, expressions compiled, nothing
//! left that could turn out wrong except by data.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{
    api::{FailurePolicy, OnFailure, PodTemplate, Task, TaskDefaults, Ttl, WorkflowSpec},
    engine::{
        admission::{self, AllowList},
        container::ContainerTemplate,
        expression::ValueTemplate,
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

/// What an installation adds to every workflow.
#[derive(Clone, Debug, Default)]
pub struct Installation {
    /// What pods may ask for.
    pub allow: AllowList,
    /// The overlay under every workflow's own.
    pub pod_template: PodTemplate,
    /// How long finished runs stay that do not say.
    pub ttl: Ttl,
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
}

impl TaskDefinition {
    /// The tasks that its expressions use.
    pub fn task_names(&self) -> impl Iterator<Item = &str> {
        let with = self
            .with
            .iter()
            .flat_map(|with| with.references().task_names());
        with.chain(self.container.task_names())
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
    /// Its container.
    pub container: ContainerTemplate,
    /// Its pod: installation, workflow and task merged.
    pub pod_template: PodTemplate,
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
    let container = task.container.clone().unwrap_or_default();
    let template = match ContainerTemplate::compile(&container, &format!("{path}.container")) {
        Ok(template) => Some(template),
        Err(error) => {
            errors.push(error);
            None
        }
    };
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
    for (place, name) in with.iter().flat_map(ValueTemplate::task_uses) {
        errors.extend(graph.check_reference(position, name, place));
    }
    for (place, name) in template.iter().flat_map(ContainerTemplate::task_uses) {
        errors.extend(graph.check_reference(position, name, &place));
    }
    if let Some(template) = &task.pod_template {
        errors.extend(admission::check_template(
            template,
            &installation.allow,
            &format!("{path}.podTemplate"),
        ));
    }
    errors.extend(admission::check_container(
        &container,
        &installation.allow,
        &format!("{path}.container"),
    ));
    match template {
        Some(container) if errors.is_empty() => Ok(TaskDefinition {
            dependencies: graph.dependencies[position].clone(),
            dependents: graph.dependents[position].clone(),
            on_failure: task.on_failure.unwrap_or_default(),
            with,
            container,
            pod_template: merge_templates(
                Some(&installation.pod_template),
                spec.pod_template.as_ref(),
                task.pod_template.as_ref(),
            ),
            spec: task.clone(),
        }),
        _ => Err(errors),
    }
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
    let unknown = template
        .task_uses()
        .find_map(|(place, name)| graph.check_known(name, place));
    unknown.map_or(Ok(Some(template)), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::in_with(json!({"with": {"list": [1, "${{ tasks.nobody.phase }}"]}}), "spec.tasks[1].with.list[1]")]
    #[case::in_the_container(json!({"container": {"image": "i", "args": ["a", "${{ tasks.nobody.phase }}"]}}), "spec.tasks[1].container.args[1]")]
    #[case::not_an_ancestor(json!({"with": {"x": "${{ tasks.first.phase }}"}}), "spec.tasks[1].with.x")]
    #[case::itself(json!({"with": {"x": "${{ tasks.second.phase }}"}}), "spec.tasks[1].with.x")]
    fn a_use_of_the_wrong_task_is_named_where_it_stands(#[case] extra: Value, #[case] place: &str) {
        let mut second = json!({"name": "second", "container": {"image": "i"}});
        let fields = second.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        let spec = json!({"tasks": [{"name": "first", "container": {"image": "i"}}, second]});
        assert_eq!(first_error(spec).path, place);
    }

    #[test]
    fn so_is_an_unknown_task_in_the_outputs() {
        let spec = json!({
            "tasks": [{"name": "first", "container": {"image": "i"}}],
            "outputs": {"a": "${{ tasks.first.phase }}", "b": {"c": "${{ tasks.nobody.phase }}"}},
        });
        assert_eq!(first_error(spec).path, "spec.outputs.b.c");
    }

    fn first_error(spec: Value) -> FieldError {
        let spec: WorkflowSpec = serde_json::from_value(spec).unwrap();
        let errors = Definition::compile(&spec, &Installation::default()).unwrap_err();
        errors.into_iter().next().unwrap()
    }
}
