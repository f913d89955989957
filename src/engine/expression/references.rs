//! What an expression refers to.

use std::collections::BTreeMap;

/// What the expressions of a template refer to, known without any data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The tasks, each with the fields of it that are used.
    pub tasks: BTreeMap<String, TaskFields>,
    /// Whether `inputs` is used.
    pub inputs: bool,
    /// Whether `workflow` is used.
    pub workflow: bool,
}

/// Which fields of a task are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskFields {
    /// `tasks.x.phase`: a use of it in `when` lifts the rule that a task starts only after success.
    pub phase: bool,
    /// `tasks.x.outputs`
    pub outputs: bool,
    /// `tasks.x.error`
    pub error: bool,
    /// `tasks.x.attempts`
    pub attempts: bool,
}

impl TaskFields {
    /// The names of the fields.
    pub const NAMES: [&'static str; 4] = ["phase", "outputs", "error", "attempts"];

    pub(super) const ALL: Self = Self {
        phase: true,
        outputs: true,
        error: true,
        attempts: true,
    };

    /// The one field called `name`, if there is such a field.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut fields = Self::default();
        let field = match name {
            "phase" => &mut fields.phase,
            "outputs" => &mut fields.outputs,
            "error" => &mut fields.error,
            "attempts" => &mut fields.attempts,
            _ => return None,
        };
        *field = true;
        Some(fields)
    }

    fn merge(&mut self, other: Self) {
        self.phase |= other.phase;
        self.outputs |= other.outputs;
        self.error |= other.error;
        self.attempts |= other.attempts;
    }
}

impl References {
    /// The names of the tasks, sorted.
    pub fn task_names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    pub(super) fn add_task(&mut self, name: &str, fields: TaskFields) {
        self.tasks.entry(name.to_owned()).or_default().merge(fields);
    }

    /// Adds what `other` refers to.
    pub(super) fn merge(&mut self, other: &Self) {
        self.inputs |= other.inputs;
        self.workflow |= other.workflow;
        for (name, fields) in &other.tasks {
            self.add_task(name, *fields);
        }
    }
}
