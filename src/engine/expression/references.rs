//! What an expression refers to.

use std::collections::{BTreeMap, BTreeSet};

/// What the expressions of a template refer to, known without any data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The tasks, each with the fields of it that are used.
    pub tasks: BTreeMap<String, TaskFields>,
    /// Whether `inputs` is used.
    pub inputs: bool,
    /// Whether `workflow` is used.
    pub workflow: bool,
    /// Whether `item` is used, which only a task with `forEach` has.
    pub item: bool,
    /// Whether `index` is used, the same.
    pub index: bool,
    /// Which of the inputs.
    pub(super) input_keys: Keys,
    /// Which of the outputs of each task.
    pub(super) output_keys: BTreeMap<String, Keys>,
}

/// The keys of an object that are used: only those are converted, be the object as large as it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// These, and no others.
    Only(BTreeSet<String>),
    /// The object as a whole.
    All,
}

impl Default for Keys {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

impl Keys {
    /// This one key, or all if there is none.
    fn of(key: Option<&str>) -> Self {
        key.map_or(Self::All, |key| {
            Self::Only(BTreeSet::from([key.to_owned()]))
        })
    }

    fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Only(keys), Self::Only(others)) => keys.extend(others.iter().cloned()),
            _ => *self = Self::All,
        }
    }
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

    /// The name that it uses of those that only a task with `forEach` has.
    pub fn item_name(&self) -> Option<&'static str> {
        let item = self.item.then_some("item");
        item.or(self.index.then_some("index"))
    }

    pub(super) fn add_task(&mut self, name: &str, fields: TaskFields) {
        self.tasks.entry(name.to_owned()).or_default().merge(fields);
    }

    /// Adds one key of the outputs of a task, or all of them.
    pub(super) fn add_outputs(&mut self, task: &str, key: Option<&str>) {
        self.output_keys
            .entry(task.to_owned())
            .or_default()
            .merge(&Keys::of(key));
    }

    /// Adds one input, or all of them.
    pub(super) fn add_input(&mut self, key: Option<&str>) {
        self.inputs = true;
        self.input_keys.merge(&Keys::of(key));
    }

    /// Adds what `other` refers to.
    pub(super) fn merge(&mut self, other: &Self) {
        self.inputs |= other.inputs;
        self.workflow |= other.workflow;
        self.item |= other.item;
        self.index |= other.index;
        for (name, fields) in &other.tasks {
            self.add_task(name, *fields);
        }
        self.input_keys.merge(&other.input_keys);
        for (name, keys) in &other.output_keys {
            self.output_keys
                .entry(name.clone())
                .or_default()
                .merge(keys);
        }
    }
}
