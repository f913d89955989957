//! Small worlds, explored exhaustively: every order in which the operator writes, pods change,
//! users act and faults strike. In every state the laws hold, and from every state there is a way
//! to an end at which nothing is left to do.

mod explore;
mod moves;
mod state;

use rstest::rstest;
use serde_json::{Value, json};

use explore::explore;
use state::Left;

/// A task that is tried so often, without a pause.
fn task(name: &str, after: &[&str], attempts: u32) -> Value {
    json!({
        "name": name, "dependsOn": after, "container": {"image": "x"}, "infrastructureRetries": 1,
        "retry": {"maxAttempts": attempts, "backoff": {"initial": "0s", "jitter": 0}},
    })
}

fn tasks(tasks: &[Value]) -> Value {
    json!({"tasks": tasks})
}

fn with(mut spec: Value, more: Value) -> Value {
    let more: serde_json::Map<String, Value> = serde_json::from_value(more).unwrap();
    spec.as_object_mut().unwrap().extend(more);
    spec
}

fn alone(attempts: u32) -> Value {
    tasks(&[task("a", &[], attempts)])
}

fn chain() -> Value {
    tasks(&[task("a", &[], 1), task("b", &["a"], 1)])
}

fn pair() -> Value {
    tasks(&[task("a", &[], 1), task("b", &[], 1)])
}

fn joined() -> Value {
    tasks(&[
        task("a", &[], 1),
        task("b", &[], 1),
        task("c", &["a", "b"], 1),
    ])
}

fn diamond() -> Value {
    let [left, right] = ["b", "c"].map(|name| task(name, &["a"], 1));
    tasks(&[task("a", &[], 1), left, right, task("d", &["b", "c"], 1)])
}

/// A task with two items.
fn fan(for_each: Value) -> Value {
    let items = json!({"forEach": with(json!({"items": [1, 2]}), for_each)});
    tasks(&[with(task("a", &[], 1), items)])
}

/// A task with two items beside one without.
fn fan_beside() -> Value {
    let mut spec = fan(json!({}));
    spec["tasks"]
        .as_array_mut()
        .unwrap()
        .push(task("b", &[], 1));
    with(spec, json!({"parallelism": 1}))
}

fn left() -> Left {
    Left::default()
}

#[rstest]
#[case::a_task_that_is_tried_again(alone(2), Left { failures: 2, lost: 1, late: 1, ..left() })]
#[case::a_task_on_bad_nodes(alone(1), Left { infrastructure: 1, lost: 1, ..left() })]
#[case::a_task_on_bad_nodes_seen_late(alone(1), Left { infrastructure: 1, late: 1, ..left() })]
#[case::a_task_and_two_crashes(alone(2), Left { failures: 1, crashes: 2, ..left() })]
#[case::a_task_that_is_cancelled(alone(1), Left { failures: 1, cancel: 1, crashes: 1, ..left() })]
#[case::a_task_that_is_suspended(alone(2), Left { failures: 1, suspend: 1, ..left() })]
#[case::a_run_that_is_deleted(alone(1), Left { delete: 1, crashes: 1, ..left() })]
#[case::a_task_execution_that_is_deleted(chain(), Left { tasks: 1, failures: 1, ..left() })]
#[case::a_chain(chain(), Left { failures: 1, crashes: 1, ..left() })]
#[case::a_chain_that_is_cancelled(chain(), Left { cancel: 1, failures: 1, ..left() })]
#[case::a_chain_that_is_suspended(chain(), Left { suspend: 1, ..left() })]
#[case::two_side_by_side(pair(), Left { failures: 1, ..left() })]
#[case::two_of_which_one_ends_the_other(with(pair(), json!({"failurePolicy": "Cancel"})), Left { failures: 1, ..left() })]
#[case::one_after_the_other(with(pair(), json!({"parallelism": 1})), Left { failures: 1, crashes: 1, ..left() })]
#[case::two_that_are_independent(with(pair(), json!({"failurePolicy": "Complete", "parallelism": 1})), Left { failures: 2, ..left() })]
#[case::two_that_are_joined(joined(), left())]
#[case::a_narrow_diamond_that_goes_on(with(diamond(), json!({"parallelism": 1, "failurePolicy": "Complete"})), Left { failures: 1, ..left() })]
#[case::two_items(fan(json!({})), Left { failures: 1, ..left() })]
#[case::one_item_after_the_other(fan(json!({"maxParallel": 1})), Left { failures: 1, crashes: 1, ..left() })]
#[case::an_item_that_ends_the_other(fan(json!({"failurePolicy": "Cancel"})), Left { failures: 1, ..left() })]
#[case::items_that_all_run(fan(json!({"failurePolicy": "Complete", "maxParallel": 1})), Left { failures: 2, ..left() })]
#[case::items_of_a_run_that_is_cancelled(fan(json!({"maxParallel": 1})), Left { cancel: 1, ..left() })]
#[case::items_beside_a_task(fan_beside(), left())]
fn no_bad_state_is_reachable(#[case] spec: Value, #[case] left: Left) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{name}: {} states", explore(&name, &spec, left, false));
}

#[rstest]
#[case::with_every_step_written_down(chain(), Left { failures: 1, crashes: 1, ..left() })]
#[case::and_a_task_execution_taken_away(chain(), Left { strip: 1, failures: 1, ..left() })]
#[case::or_that_of_an_item(fan(json!({"maxParallel": 1})), Left { strip: 1, ..left() })]
fn nor_where_progress_is_written(#[case] spec: Value, #[case] left: Left) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{name}: {} states", explore(&name, &spec, left, true));
}

#[rstest]
#[case::of_an_attempt(json!({"timeout": "10s"}), json!({}))]
#[case::of_a_task(json!({"deadline": "15s"}), json!({}))]
#[case::of_a_run(json!({}), json!({"timeout": "20s"}))]
#[case::of_all(json!({"timeout": "10s", "deadline": "15s"}), json!({"timeout": "20s"}))]
fn nor_where_time_is_limited(#[case] of_task: Value, #[case] of_run: Value) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let mut only = with(task("a", &[], 2), of_task);
    only["retry"]["backoff"] = json!({"initial": "4s", "jitter": 0});
    let left = Left {
        failures: 1,
        ..left()
    };
    // Progress that is kept back for a second would make time pass in seconds.
    let progress = of_run.get("timeout").is_some();
    let spec = with(tasks(&[only]), of_run);
    println!("{name}: {} states", explore(&name, &spec, left, progress));
}
