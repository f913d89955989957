//! What the operator keeps of a run in memory, and how it finds it again after a restart.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use compozy::{
    api::{TaskExecution, TaskPhase, Time, Workflow},
    engine::{
        definition::{Definition, Installation},
        field_error::FieldError,
        resolve,
        run::{ExecutionIndex, Run},
        workflow::changed_spec,
    },
};

/// The task executions of a run.
pub type Executions = BTreeMap<ExecutionIndex, Arc<TaskExecution>>;

/// A run in memory.
pub struct Memory {
    graph: Result<(Rc<Definition>, Run), Vec<FieldError>>,
    pub last_progress: Option<Time>,
}

impl Memory {
    /// The run as the objects show it.
    pub fn rebuild(workflow: &Workflow, executions: &Executions) -> Memory {
        let graph = match changed_spec(workflow) {
            Some(error) => Err(vec![error]),
            None => Definition::compile(&workflow.spec, &Installation::default()).map(Rc::new),
        };
        let graph = graph.map(|definition| {
            let run = rebuild(&definition, workflow, executions);
            (definition, run)
        });
        Memory {
            graph,
            last_progress: None,
        }
    }

    /// The run, or what is wrong with the spec.
    pub fn graph(&self) -> Result<(&Definition, &Run), &[FieldError]> {
        match &self.graph {
            Ok((definition, run)) => Ok((definition, run)),
            Err(errors) => Err(errors),
        }
    }

    pub fn observe(&mut self, which: ExecutionIndex, te: &TaskExecution) {
        if let Ok((definition, run)) = &mut self.graph {
            observe(run, definition, which, te);
        }
    }

    /// Finds the items of the tasks whose time for that has come.
    pub fn expand(&mut self, workflow: &Workflow, executions: &Executions) {
        if let Ok((definition, run)) = &mut self.graph {
            let lookup = |which| executions.get(&which).cloned();
            resolve::expand(workflow, definition, run, &lookup);
        }
    }

    /// What was under way and is gone counts as cancelled.
    pub fn notice_gone(&mut self, executions: &Executions, now: Time) {
        if let Ok((definition, run)) = &mut self.graph {
            for which in missing(run, executions.keys()) {
                run.observe(definition, which, TaskPhase::Cancelled, now);
            }
        }
    }
}

/// What exists, and what status says had begun: if that is gone it must not run again.
pub fn rebuild(definition: &Definition, workflow: &Workflow, executions: &Executions) -> Run {
    let mut run = Run::new(definition);
    let rows = workflow.status.iter().flat_map(|status| &status.tasks);
    let begun = rows
        .filter_map(|row| Some((row, definition.position(&row.name)?)))
        .flat_map(|(row, task)| row.begun().map(move |item| ExecutionIndex { task, item }))
        .filter(|which| !executions.contains_key(which));
    for which in begun {
        run.observe(definition, which, TaskPhase::Pending, epoch());
    }
    for (&which, te) in executions {
        observe(&mut run, definition, which, te);
    }
    let lookup = |which| executions.get(&which).cloned();
    resolve::expand(workflow, definition, &mut run, &lookup);
    run
}

/// Takes in a task execution.
pub fn observe(run: &mut Run, definition: &Definition, which: ExecutionIndex, te: &TaskExecution) {
    let status = te.status.clone().unwrap_or_default();
    let ended_at = status.finished_at.unwrap_or(epoch());
    run.observe(definition, which, status.phase, ended_at);
}

/// What the run thinks under way and does not exist as far as is known.
pub fn missing<'a>(
    run: &Run,
    known: impl Iterator<Item = &'a ExecutionIndex>,
) -> Vec<ExecutionIndex> {
    let known: Vec<_> = known.collect();
    run.active()
        .filter(|which| !known.contains(&which))
        .collect()
}

fn epoch() -> Time {
    Time(jiff::Timestamp::UNIX_EPOCH)
}
