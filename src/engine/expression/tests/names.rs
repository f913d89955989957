//! What templates refer to.

use super::WORKFLOW;
use crate::engine::expression::{
    References, Scope, TaskFields, TaskScope, Template, ValueTemplate,
};
use rstest::rstest;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

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

/// What is not converted must not be missed: whatever way the whole is used, the whole is there.
#[rstest]
#[case("size(inputs)", json!(3))]
#[case("inputs.a + size(inputs)", json!(4))]
#[case("inputs['a'] + inputs.b", json!(3))]
#[case("inputs.map(k, inputs[k])", json!([1, 2, 3]))]
#[case("inputs[['c'][0]] + inputs.a", json!(4))]
#[case("[inputs].map(i, i.c)[0] + inputs.a", json!(4))]
#[case("'c' in inputs && has(inputs.a)", json!(true))]
#[case("has(inputs.c)", json!(true))]
#[case("(true ? inputs : inputs).b", json!(2))]
#[case("inputs == {'a': 1, 'b': 2, 'c': 3} && inputs.a == 1", json!(true))]
#[case("size(tasks.t.outputs) + tasks.t.outputs.a", json!(4))]
#[case("tasks['t'].outputs['b'] + tasks.t['outputs'].a", json!(3))]
#[case("tasks.t.outputs.map(k, tasks.t.outputs[k])", json!([1, 2, 3]))]
#[case("tasks.t[['outputs'][0]].c", json!(3))]
#[case("[tasks.t].map(t, t.outputs.c)[0] + tasks.t.outputs.a", json!(4))]
#[case("has(tasks.t.outputs) && has(tasks.t.outputs.c)", json!(true))]
#[case("has(tasks.t) && tasks.t.outputs.c == 3", json!(true))]
#[case("tasks.t.outputs.a + tasks.t.attempts + size(tasks.t)", json!(6))]
fn all_that_is_used_is_there(#[case] expression: &str, #[case] expected: serde_json::Value) {
    let data = json!({"a": 1, "b": 2, "c": 3});
    let task = TaskScope {
        phase: "Succeeded",
        outputs: &data,
        error: None,
        attempts: 1,
    };
    let tasks = BTreeMap::from([("t".to_owned(), task)]);
    let scope = Scope {
        inputs: &data,
        workflow: WORKFLOW,
        tasks: &tasks,
        item: None,
    };
    let template = Template::compile(&format!("${{{{ {expression} }}}}")).unwrap();
    assert_eq!(template.evaluate(&scope), Ok(expected.clone()));
    // The same with a neighbour that uses little, or much.
    for other in ["inputs.a", "inputs", "tasks.t.outputs.b", "tasks.t"] {
        let tree = json!([
            format!("${{{{ {other} }}}}"),
            format!("${{{{ {expression} }}}}")
        ]);
        let result = ValueTemplate::compile(&tree, "")
            .unwrap()
            .evaluate(&scope)
            .unwrap();
        assert_eq!(result[1], expected, "beside {other}");
    }
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
