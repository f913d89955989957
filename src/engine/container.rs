//! The container of a task: which of its strings are expressions, and the container they give.

use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

use crate::engine::{
    expression::{EvaluationError, References, Scope, Template},
    field_error::FieldError,
};

/// Where in a container an expression stands.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Image,
    Command(usize),
    Arg(usize),
    Env(usize),
}

impl Slot {
    fn path(self) -> String {
        match self {
            Slot::Image => "image".to_owned(),
            Slot::Command(index) => format!("command[{index}]"),
            Slot::Arg(index) => format!("args[{index}]"),
            Slot::Env(index) => format!("env[{index}].value"),
        }
    }
}

/// A container whose `image`, `command`, `args` and `env` values may hold expressions.
#[derive(Debug)]
pub struct ContainerTemplate {
    container: Container,
    expressions: Vec<(Slot, Template)>,
    path: String,
}

impl ContainerTemplate {
    /// Compiles the expressions in `container`, which stands at `path`.
    ///
    /// # Errors
    /// An expression that cannot be compiled, or that the kubelet's own `$(…)` would take apart.
    pub fn compile(container: &Container, path: &str) -> Result<ContainerTemplate, FieldError> {
        let env = container.env.iter().flatten().enumerate();
        let strings = container
            .image
            .iter()
            .map(|text| (Slot::Image, text))
            .chain(
                container
                    .command
                    .iter()
                    .flatten()
                    .enumerate()
                    .map(|(i, text)| (Slot::Command(i), text)),
            )
            .chain(
                container
                    .args
                    .iter()
                    .flatten()
                    .enumerate()
                    .map(|(i, text)| (Slot::Arg(i), text)),
            )
            .chain(env.filter_map(|(i, variable)| {
                variable.value.as_ref().map(|text| (Slot::Env(i), text))
            }));
        let mut expressions = Vec::new();
        for (slot, text) in strings {
            let compiled = match slot {
                Slot::Image => Template::compile(text),
                _ => Template::compile_for_kubelet(text),
            };
            let template = compiled
                .map_err(|error| FieldError::from(error.at(&format!("{path}.{}", slot.path()))))?;
            if !template.is_literal() {
                expressions.push((slot, template));
            }
        }
        Ok(ContainerTemplate {
            container: container.clone(),
            expressions,
            path: path.to_owned(),
        })
    }

    /// The tasks that the expressions use.
    pub fn task_names(&self) -> impl Iterator<Item = &str> {
        self.expressions
            .iter()
            .flat_map(|(_, template)| template.references().task_names())
    }

    /// What each of the expressions refers to, with the place of it.
    pub fn uses(&self) -> impl Iterator<Item = (String, &References)> {
        let expressions = self.expressions.iter();
        expressions.map(|(slot, template)| {
            let place = format!("{}.{}", self.path, slot.path());
            (place, template.references())
        })
    }

    /// The container with every expression replaced by its result.
    ///
    /// # Errors
    /// What only data can show; the error names the expression and the place.
    pub fn evaluate(&self, scope: &Scope) -> Result<Container, EvaluationError> {
        let mut container = self.container.clone();
        for (slot, template) in &self.expressions {
            let at = |error: EvaluationError| error.at(&format!("{}.{}", self.path, slot.path()));
            let place = match slot {
                Slot::Image => container.image.as_mut(),
                Slot::Command(index) => container
                    .command
                    .as_mut()
                    .and_then(|list| list.get_mut(*index)),
                Slot::Arg(index) => container
                    .args
                    .as_mut()
                    .and_then(|list| list.get_mut(*index)),
                Slot::Env(index) => container
                    .env
                    .as_mut()
                    .and_then(|list| list.get_mut(*index))
                    .and_then(|env| env.value.as_mut()),
            };
            if let Some(place) = place {
                *place = match slot {
                    Slot::Image => match template.evaluate(scope).map_err(at)? {
                        Value::String(image) => image,
                        other => other.to_string(),
                    },
                    _ => template.evaluate_for_kubelet(scope).map_err(at)?,
                };
            }
        }
        Ok(container)
    }
}
