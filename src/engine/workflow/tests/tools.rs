//! What becomes of tasks that call tools.

use super::*;
use crate::api::ToolRef;

fn charge() -> Option<ToolRef> {
    let name = "charge".to_owned();
    Some(ToolRef { name })
}

#[test]
fn the_execution_of_a_tool_has_its_input_and_nothing_of_a_pod() {
    let mut world = World::new(json!({
        "podTemplate": {"metadata": {"labels": {"team": "data"}}},
        "tasks": [
            {"name": "ask", "container": {"image": "i"}},
            {"name": "pay", "dependsOn": ["ask"], "tool": {"name": "charge"},
             "with": {"amount": "${{ tasks.ask.outputs.amount }}"}, "timeout": "5s"},
        ],
    }));
    world.settle();
    world.end(0, TaskPhase::Succeeded, json!({"amount": 42}));
    world.settle();
    let spec = &world.te(1).spec;
    assert_eq!(spec.tool, charge());
    assert_eq!(spec.inputs, Some(json!({"amount": 42})));
    assert_eq!((&spec.container, &spec.pod_template), (&None, &None));
    assert_eq!(spec.timeout.unwrap().to_string(), "5s");
    let refused = resolve::refused(world.te(1), "too large").spec;
    assert_eq!((refused.tool, refused.inputs), (None, None));
    world.end(1, TaskPhase::Succeeded, json!({"paid": 42}));
    world.settle();
    assert_eq!(world.workflow.status.unwrap().phase, RunPhase::Succeeded);
}

#[test]
fn every_item_calls_with_its_own_input() {
    let mut world = World::new(json!({"tasks": [{
        "name": "pay", "tool": {"name": "charge"}, "forEach": {"items": [3, 4]},
        "with": {"amount": "${{ item }}", "place": "${{ index }}"},
    }]}));
    world.settle();
    for (index, amount) in [(0, 3), (1, 4)] {
        let spec = &world.te(ExecutionIndex::of_item(0, index)).spec;
        assert_eq!(spec.tool, charge());
        assert_eq!(spec.inputs, Some(json!({"amount": amount, "place": index})));
    }
}

#[test]
fn an_input_that_cannot_be_found_is_no_call() {
    let mut world = World::new(json!({"inputs": {}, "tasks": [{
        "name": "pay", "tool": {"name": "charge"}, "with": {"amount": "${{ inputs.amount }}"},
    }]}));
    world.settle();
    let spec = &world.te(0).spec;
    assert_eq!(spec.tool, None);
    assert_eq!(spec.stop.as_ref().unwrap().code, "EXPRESSION_ERROR");
}
