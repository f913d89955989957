//! What a spec is refused for, and where that stands.

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

#[rstest]
#[case::in_with(json!({"with": {"x": "${{ item }}"}}), "spec.tasks[0].with.x: uses item, which")]
#[case::in_the_container(json!({"container": {"image": "i", "args": ["${{ index }}"]}}), "spec.tasks[0].container.args[0]: uses index, which")]
#[case::in_the_items(json!({"forEach": {"items": "${{ [item] }}"}}), "spec.tasks[0].forEach.items: uses item, which")]
#[case::items_of_an_unknown_task(json!({"forEach": {"items": ["${{ tasks.nobody.phase }}"]}}), "spec.tasks[0].forEach.items[0]: uses tasks.nobody")]
#[case::text(json!({"forEach": {"items": "${{ inputs.a }} "}}), "spec.tasks[0].forEach.items: needs a list, or one whole expression that gives one, such as ${{ inputs.list }}; this text is not")]
#[case::a_number(json!({"forEach": {"items": 3}}), "spec.tasks[0].forEach.items: needs a list")]
#[case::an_object(json!({"forEach": {"items": {"a": 1}}}), "spec.tasks[0].forEach.items: needs a list")]
fn what_is_wrong_with_items_is_named_where_it_stands(#[case] extra: Value, #[case] says: &str) {
    let mut task = json!({"name": "only", "container": {"image": "i"}});
    task.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let error = first_error(json!({"tasks": [task]})).to_string();
    assert!(error.starts_with(says), "{error}");
}

#[rstest]
#[case::neither(json!({}), "spec.tasks[0]: a task needs exactly one of: container, pool, tool")]
#[case::both(json!({"container": {"image": "i"}, "tool": {"name": "t"}}), "spec.tasks[0]: a task needs exactly one of: container, pool, tool")]
#[case::pod(json!({"tool": {"name": "t"}, "podTemplate": {}}), "spec.tasks[0].podTemplate: is for a task with container: this one has no pod of its own")]
#[case::image(json!({"tool": {"name": "t"}, "imagePullTimeout": "1m"}), "spec.tasks[0].imagePullTimeout: is for a task with container: this one has no pod of its own")]
#[case::use_of_the_wrong_task(json!({"tool": {"name": "t"}, "with": "${{ tasks.nobody.phase }}"}), "spec.tasks[0].with: uses tasks.nobody")]
fn a_task_has_one_executor_and_what_belongs_to_it(#[case] extra: Value, #[case] says: &str) {
    let mut task = json!({"name": "only"});
    let fields = task.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    let error = first_error(json!({"tasks": [task]})).to_string();
    assert!(error.starts_with(says), "{error}");
}

#[rstest]
#[case::container(json!({"container": {"image": "i", "args": ["${{ item.x }}"]}}))]
#[case::tool(json!({"tool": {"name": "t"}}))]
fn a_task_with_items_may_use_them(#[case] executor: Value) {
    let mut task = json!({"name": "only", "forEach": {"items": "${{ inputs.list }}"}, "with": {"i": "${{ index }}"}});
    let fields = task.as_object_mut().unwrap();
    fields.extend(executor.as_object().unwrap().clone());
    let spec: WorkflowSpec = serde_json::from_value(json!({"tasks": [task]})).unwrap();
    Definition::compile(&spec, &Installation::default()).unwrap();
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
