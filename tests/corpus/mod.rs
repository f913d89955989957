//! The conformance corpus: its cases as types, a model of scheduler and kubelet that plays their
//! scripts, what they expect, and the laws that hold in every world. Included by each test crate
//! that runs the cases; `tests/conformance/README.md` documents the files.

pub mod check;
pub mod expect;
pub mod kubelet;
pub mod laws;
pub mod script;

use std::{
    fs,
    path::{Path, PathBuf},
};

use compozy::api::{TaskExecution, Workflow};
use serde::de::DeserializeOwned;
use serde_json::Value;

use expect::Expect;
use script::Script;

/// One case: a workflow, what happens to it, and what must come of that.
#[derive(Debug)]
pub struct Case {
    /// The folder's name, and the workflow's.
    pub name: String,
    /// The object as a user would create it.
    pub workflow: Workflow,
    /// What pods and users do.
    pub script: Script,
    /// What must come of it.
    pub expect: Expect,
}

/// Every case, in the order of the names.
pub fn cases() -> Vec<Case> {
    // Tests run in the package's folder. Its path as it was when they were built may be another checkout's.
    let mut folders: Vec<PathBuf> = fs::read_dir("tests/conformance")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders.iter().map(|folder| Case::read(folder)).collect()
}

impl Case {
    fn read(folder: &Path) -> Case {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let case = Case {
            workflow: read(&folder.join("workflow.yaml")),
            script: read(&folder.join("script.yaml")),
            expect: read(&folder.join("expect.yaml")),
            name,
        };
        case.assert_whole();
        case
    }

    /// Every task is spoken of and nothing is that does not exist: what a case does not say would
    /// silently not be checked.
    fn assert_whole(&self) {
        let name = &self.name;
        assert_eq!(
            self.workflow.metadata.name.as_ref(),
            Some(name),
            "{name}: the workflow has the folder's name"
        );
        let tasks = || {
            self.workflow
                .spec
                .tasks
                .iter()
                .map(|task| task.name.as_str())
        };
        for task in tasks() {
            assert!(
                self.expect.tasks.contains_key(task),
                "{name}: expect.yaml says nothing of task {task}"
            );
        }
        let spoken_of = self.expect.tasks.keys().chain(self.script.pods.keys());
        let in_acts = self.script.user.iter().flat_map(script::UserAct::tasks);
        let in_order = self.expect.order.iter().flatten();
        let in_order = in_order.filter_map(|told| told.task.as_deref());
        for of in spoken_of.map(String::as_str).chain(in_acts).chain(in_order) {
            let known = tasks().any(|known| known == task_of(of));
            assert!(known, "{name}: no task {of}");
        }
    }

    /// The scripts of the attempts of a task execution.
    pub fn attempts(&self, of: &str) -> &[script::Attempt] {
        let pods = &self.script.pods;
        let attempts = pods.get(of).or_else(|| pods.get(task_of(of)));
        attempts.map_or(&[], Vec::as_slice)
    }

    /// The script of one attempt of a task execution.
    pub fn attempt(&self, of: &str, attempt: u32) -> Option<&script::Attempt> {
        self.attempts(of).get(attempt.checked_sub(1)? as usize)
    }
}

/// What the files call a task execution: `build`, or `build/0` if it is of an item.
pub fn key(te: &TaskExecution) -> String {
    key_of(&te.spec.task, te.spec.index)
}

/// The same, of these two.
pub fn key_of(task: &str, index: Option<u32>) -> String {
    index.map_or_else(|| task.to_owned(), |index| format!("{task}/{index}"))
}

/// The task that a task execution is of.
fn task_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(task, _)| task)
}

/// By way of JSON: YAML would want tags for enums.
fn read<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| wrong(path, &error));
    let value: Value = serde_norway::from_str(&text).unwrap_or_else(|error| wrong(path, &error));
    serde_json::from_value(value).unwrap_or_else(|error| wrong(path, &error))
}

fn wrong(path: &Path, error: &dyn std::error::Error) -> ! {
    panic!("{}: {error}", path.display())
}

#[test]
fn there_are_enough_cases_and_some_for_the_real_cluster() {
    let cases = cases();
    let on_cluster = cases.iter().filter(|case| case.expect.cluster).count();
    assert!(
        cases.len() >= 60 && on_cluster >= 15,
        "{} {on_cluster}",
        cases.len()
    );
}
