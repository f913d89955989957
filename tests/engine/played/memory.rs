//! What the operator keeps of a run in memory, and how it finds it again after a restart.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use compozy::{
    api::{TaskExecution, TaskPhase, Time, Workflow},
    engine::{
        definition::{Definition, Installation},
        field_error::FieldError,
        run::{NodeState, Run, TaskIndex},
        workflow::changed_spec,
    },
};

/// The task executions of a run.
pub type Executions = BTreeMap<TaskIndex, Arc<TaskExecution>>;

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

    pub fn observe(&mut self, task: TaskIndex, te: &TaskExecution) {
        if let Ok((definition, run)) = &mut self.graph {
            observe(run, definition, task, te);
        }
    }

    /// What was under way and is gone counts as cancelled.
    pub fn notice_gone(&mut self, executions: &Executions, now: Time) {
        if let Ok((definition, run)) = &mut self.graph {
            for task in missing(run, definition, executions.keys()) {
                run.observe(definition, task, TaskPhase::Cancelled, now);
            }
        }
    }
}

/// What exists, and what status says had begun: if that is gone it must not run again.
pub fn rebuild(definition: &Definition, workflow: &Workflow, executions: &Executions) -> Run {
    let mut run = Run::new(definition);
    let rows = workflow.status.iter().flat_map(|status| &status.tasks);
    let begun = rows
        .filter(|row| !matches!(row.phase.as_str(), "Waiting" | "Pending" | "Skipped"))
        .filter_map(|row| definition.position(&row.name))
        .filter(|task| !executions.contains_key(task));
    for task in begun {
        run.observe(definition, task, TaskPhase::Pending, epoch());
    }
    for (&task, te) in executions {
        observe(&mut run, definition, task, te);
    }
    run
}

/// Takes in a task execution.
pub fn observe(run: &mut Run, definition: &Definition, task: TaskIndex, te: &TaskExecution) {
    let status = te.status.clone().unwrap_or_default();
    let ended_at = status.finished_at.unwrap_or(epoch());
    run.observe(definition, task, status.phase, ended_at);
}

/// Tasks that the run thinks under way and that do not exist as far as is known.
pub fn missing<'a>(
    run: &Run,
    definition: &Definition,
    known: impl Iterator<Item = &'a TaskIndex>,
) -> Vec<TaskIndex> {
    let known: Vec<_> = known.collect();
    (0..definition.tasks().len())
        .filter(|task| matches!(run.state(*task), NodeState::Active(_)) && !known.contains(&task))
        .collect()
}

fn epoch() -> Time {
    Time(jiff::Timestamp::UNIX_EPOCH)
}
