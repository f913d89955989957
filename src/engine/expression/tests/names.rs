//! What templates refer to.

use crate::engine::expression::{References, TaskFields, Template, ValueTemplate};
use rstest::rstest;
use serde_json::json;
use std::collections::BTreeSet;

fn references(template: &str) -> References {
    Template::compile(template)
        .unwrap_or_else(|error| panic!("{error}"))
        .references()
        .clone()
}

#[rstest]
#[case("plain", &[])]
#[case("${{ inputs.a }}", &["inputs"])]
#[case("${{ inputs }}", &["inputs"])]
#[case("${{ workflow.name }}", &["workflow"])]
#[case("${{ tasks.a.outputs.x }}${{ tasks['b-c'].phase }}", &["a.outputs", "b-c.phase"])]
#[case("${{ tasks['a'].error.code + tasks.a['attempts'] }}", &["a.error", "a.attempts"])]
#[case("${{ tasks.a }}", &["a.phase", "a.outputs", "a.error", "a.attempts"])]
#[case("${{ tasks['a'] }}", &["a.phase", "a.outputs", "a.error", "a.attempts"])]
#[case("${{ tasks.a[inputs.field] }}", &["inputs", "a.phase", "a.outputs", "a.error", "a.attempts"])]
#[case("${{ has(tasks.a) }}", &["a"])]
#[case("${{ has(tasks.a.outputs.x) }}", &["a.outputs"])]
#[case("${{ inputs.l.map(x, tasks.a.outputs[x]) }}", &["inputs", "a.outputs"])]
#[case("${{ [1].map(x, x + 1) }}", &[])]
#[case("${{ [[1]].map(x, x.map(y, y + size(x))) }}", &[])]
#[case("${{ {'k': tasks.a.phase}.k }}", &["a.phase"])]
#[case("${{ true ? tasks.a.phase : tasks.b.phase }}", &["a.phase", "b.phase"])]
fn a_template_refers_to(#[case] template: &str, #[case] expected: &[&str]) {
    let expected = expected
        .iter()
        .map(|name| (*name).to_owned())
        .collect::<BTreeSet<_>>();
    assert_eq!(names(&references(template)), expected);
}

/// The references, written out: `inputs`, `workflow`, `task` (none of its fields) and `task.field`.
fn names(references: &References) -> BTreeSet<String> {
    let mut names = Vec::new();
    if references.inputs {
        names.push("inputs".to_owned());
    }
    if references.workflow {
        names.push("workflow".to_owned());
    }
    for (task, fields) in &references.tasks {
        let TaskFields {
            phase,
            outputs,
            error,
            attempts,
        } = *fields;
        let used = [phase, outputs, error, attempts];
        let used = TaskFields::NAMES.iter().zip(used).filter(|(_, used)| *used);
        names.extend(used.clone().map(|(field, _)| format!("{task}.{field}")));
        if used.count() == 0 {
            names.push(task.clone());
        }
    }
    names.into_iter().collect()
}

#[test]
fn a_tree_refers_to_what_its_strings_do() {
    let tree = json!({"a": ["${{ tasks.x.outputs }}", {"b": "${{ workflow.uid }} ${{ tasks.x.phase }}"}], "c": 1});
    let tree = ValueTemplate::compile(&tree, "with").unwrap();
    let references = tree.references();
    assert_eq!(references.task_names().collect::<Vec<_>>(), ["x"]);
    assert!(references.workflow && !references.inputs);
    assert!(
        references.tasks["x"].outputs
            && references.tasks["x"].phase
            && !references.tasks["x"].error
    );
}
