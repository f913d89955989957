//! What users are told when something is wrong.

use super::{evaluate, result_of};
use crate::engine::expression::{Template, ValueTemplate};
use rstest::rstest;
use serde_json::json;

#[rstest]
#[case("${{ inputs.a", "`${{` without a closing `}}`")]
#[case("a ${{ {'k': 1 }} b", "a `}` of it closes a map, `} }}` closes both")]
#[case("a ${{ {'k': 1 b", "a `{` inside it is not closed either")]
#[case("${{ 'unclosed }}", "`${{` without a closing `}}`")]
#[case("${{ }}", "an empty expression")]
#[case("${{}}", "an empty expression")]
#[case("${{ 1 + }}", "syntax error at column 6: ")]
#[case("${{ foo( }}", "syntax error at column ")]
#[case("${{ 1 }} ${{ a b }}", "syntax error at column 4: ")]
#[case(
    "${{ inputs.?a }}",
    "syntax error at column 8: unsupported syntax '.?'"
)]
#[case("${{ 99999999999999999999 }}", "invalid int literal")]
#[case("${{ task.a.outputs }}", "unknown name `task` (did you mean `tasks`?)")]
#[case("${{ input.a }}", "unknown name `input` (did you mean `inputs`?)")]
#[case(
    "${{ env.A }}",
    "unknown name `env`; known are inputs, tasks, workflow, and under forEach item and index"
)]
#[case("${{ .inputs.a }}", "unknown name `.inputs` (did you mean `inputs`?)")]
#[case(
    "${{ [1].map(item, itm) }}",
    "unknown name `itm` (did you mean `item`?)"
)]
#[case("${{ [1].map(x, x) + x }}", "unknown name `x`")]
#[case("${{ [1].map(tasks, 1) }}", "`tasks` cannot be the name of a variable")]
#[case("${{ [1].map(.x, 1) }}", "`.x` cannot be the name of a variable")]
#[case("${{ tasks }}", "`tasks` can only be used with a name written out")]
#[case(
    "${{ tasks[inputs.x].outputs }}",
    "which tasks an expression depends on must be known before it runs"
)]
#[case(
    "${{ size(tasks) }}",
    "`tasks` can only be used with a name written out"
)]
#[case(
    "${{ 'a' in tasks }}",
    "`tasks` can only be used with a name written out"
)]
#[case(
    "${{ tasks.map(t, t) }}",
    "`tasks` can only be used with a name written out"
)]
#[case(
    "${{ tasks.a.output }}",
    "a task has no field `output` (did you mean `outputs`?)"
)]
#[case(
    "${{ tasks['a'].result.x }}",
    "a task has no field `result`; it has phase, outputs, error and attempts"
)]
#[case("${{ tasks.a['status'] }}", "a task has no field `status`")]
#[case("${{ has(tasks.a.text) }}", "its results are in tasks.a.outputs")]
#[case(
    "${{ tasks.my-task.outputs }}",
    "a name with a dash is written tasks[\"my-task\"]"
)]
#[case(
    "${{ workflow.id }}",
    "`workflow` has no field `id` (did you mean `uid`?)"
)]
#[case("${{ now() }}", "unknown function `now`")]
#[case("${{ inputs.a.toUpper() }}", "unknown function `toUpper`")]
#[case(
    "${{ 'a'.startswith('a') }}",
    "unknown function `startswith` (did you mean `startsWith`?)"
)]
#[case("${{ contains('a', 'b') }}", "`contains` is called x.contains(…)")]
#[case("${{ inputs.a.string() }}", "`string` is called string(x)")]
#[case("${{ inputs.a.map(x) }}", "`map` is written list.map(x, expression)")]
#[case("${{ has(inputs) }}", "invalid argument to has() macro")]
#[case("${{ Foo{a: 1} }}", "`Foo{…}` is a message")]
#[case("${{ optional.of(1) }}", "unknown name `optional`")]
#[case("${{ inputs.a.matches('(') }}", "`(` is not a regular expression")]
#[case(
    "${{ matches(inputs.a, '(a{999}){999}') }}",
    "the pattern is too large: `(a{999}){999}`"
)]
#[case("${{ @result }}", "syntax error at column 2: ")]
#[case("${{ steps.a }}", "unknown name `steps`")]
fn a_template_is_refused(#[case] template: &str, #[case] expected: &str) {
    let error = Template::compile(template).expect_err(template).to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn the_whole_text_of_a_fault() {
    let error = Template::compile("${{ task.a.outputs }}")
        .expect_err("unknown name")
        .at("spec.outputs.said");
    assert_eq!(
        error.to_string(),
        "spec.outputs.said: unknown name `task` (did you mean `tasks`?); known are inputs, tasks, workflow, and under forEach item and index, \
         in ${{ task.a.outputs }}"
    );
}

#[rstest]
#[case(
    "inputs.nobody",
    "no such key: `nobody`; has(inputs.nobody) tells whether there is one"
)]
#[case(
    "tasks.build.outputs.nested.missing + 1",
    "has(tasks.build.outputs.nested.missing)"
)]
#[case("inputs.map['b']", "no such key: `b`")]
#[case(
    "inputs.items.map(i, i.nothing)",
    "no such key: `nothing`; has(i.nothing)"
)]
#[case(
    "inputs.items[3]",
    "the list has no element 3; size(list) tells how many it has"
)]
#[case("inputs.items[-1]", "the list has no element -1")]
#[case("inputs.items[0.5]", "takes an int or a string, not a double")]
#[case("inputs.items[inputs.items]", "takes an int or a string, not a list")]
#[case("inputs.items['a']", "`[…]` cannot be used with list and string")]
#[case(
    "inputs.count + inputs.ratio",
    "`+` cannot be used with int and double; make both the same with double(…)"
)]
#[case(
    "inputs.ratio * 2",
    "`*` cannot be used with double and int; make both the same with double(…)"
)]
#[case(
    "inputs.count - 1u",
    "`-` cannot be used with int and uint; make both the same with int(…)"
)]
#[case(
    "inputs.who + 1",
    "`+` cannot be used with string and int; string(…) makes text of a value"
)]
#[case("1 + inputs.who", "string(…) makes text of a value")]
#[case("inputs.items - inputs.map", "`-` cannot be used with list and map")]
#[case("inputs.map + inputs.map", "a map cannot be added to anything")]
#[case("inputs.items + inputs.map", "a map cannot be added to anything")]
#[case("[1] + {'a': 1}", "a map cannot be added to anything")]
#[case("inputs.count < inputs.who", "`<` cannot be used with int and string")]
#[case("inputs.who && true", "`&&` cannot be used with string and bool")]
#[case("!inputs.who", "`!` cannot be used with string")]
#[case("inputs.count ? 1 : 2", "bool is needed, not int")]
#[case("inputs.who.length", "`.` cannot be used with string and string")]
#[case("inputs.none.x", "`.` cannot be used with null_type and string")]
#[case("inputs.count / 0", "division by zero")]
#[case("inputs.count % 0", "division by zero")]
#[case(
    "9223372036854775807 + inputs.count",
    "the result of `+` is out of range"
)]
#[case("(-9223372036854775807 - 1) / -1", "the result of `/` is out of range")]
#[case("(-9223372036854775807 - 1) % -1", "the result of `%` is out of range")]
#[case("-(-9223372036854775807 - 1)", "the result of `-` is out of range")]
#[case("9223372036854775807 * 2", "the result of `*` is out of range")]
#[case("1u - 2u", "the result of `-` is out of range")]
#[case("int('x')", "int: ")]
#[case("int(1e300)", "int: integer overflow")]
#[case("duration('x')", "duration: not a duration; one is written '1h30m'")]
#[case("timestamp('x')", "timestamp: not a timestamp")]
#[case("timestamp(0).getHours('Mars')", "timezone: not a time zone")]
#[case("size(1)", "`size` cannot be used with int")]
#[case("size(inputs.who, 1)", "`size` cannot be used with string and int")]
#[case(
    "inputs.who.matches(inputs.who, 'a', 'b')",
    "`matches` cannot be used with string and string"
)]
#[case(
    "inputs.who.matches(1)",
    "`matches` cannot be used with string and int"
)]
#[case(
    "inputs.who.matches('(' + inputs.who)",
    "matches: not a regular expression"
)]
#[case("inputs.who.map(x, x)", "needs a list or a map, not a string")]
#[case("{'a': 1, 'a': 2}", "a map that has a key twice")]
#[case("{1.5: 1}", "double cannot be a key")]
#[case("{1: 1, '1': 2}", "a map has two keys that are `1` in JSON")]
#[case("b'abc'", "the result is bytes")]
#[case("0.0 / 0.0", "the result is NaN, which is not a number in JSON")]
#[case("1.0 / 0.0", "the result is inf, which is not a number in JSON")]
#[case("tasks.other.phase", "nothing is known of the task `other`")]
fn an_expression_fails(#[case] expression: &str, #[case] expected: &str) {
    let error = result_of(expression).expect_err(expression);
    assert!(error.contains(expected), "{error}");
}

#[test]
fn messages_do_not_show_the_data() {
    let inputs = json!({"secret": "hunter2", "list": ["hunter2"], "map": {"hunter2": "hunter2"}});
    for expression in [
        "inputs.secret + 1",
        "inputs.secret < 1",
        "inputs.list < inputs.map",
        "inputs.list - inputs.map",
        "inputs.list[0.5]",
        "inputs.map[inputs.list]",
        "{inputs.list: 1}",
        "{inputs.secret: 1, inputs.secret: 2}",
        "-inputs.list",
        "inputs.secret ? 1 : 2",
        "inputs.list.contains(1)",
        "inputs.list in inputs.map",
        "inputs.secret.all(x, x)",
        "duration(inputs.secret)",
        "timestamp(inputs.secret)",
        "timestamp(0).getHours(inputs.secret)",
        "int(inputs.secret)",
        "double(inputs.secret)",
        "uint(inputs.secret)",
        "bool(inputs.secret)",
        "'a'.matches('(' + inputs.secret)",
        "inputs.secret.matches(1)",
        "inputs.list.matches(inputs.map)",
        "size(inputs.list, inputs.secret)",
        "inputs.list * inputs.secret",
        "inputs.secret ? inputs.list : 1",
        "inputs.secret || inputs.list",
    ] {
        let error = evaluate(&format!("${{{{ {expression} }}}}"), &inputs).expect_err(expression);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[rstest]
#[case(json!({"a": [0, {"text": "${{ task.x }}"}]}), "spec.with.a[1].text: ")]
#[case(json!({"a b": {"c.d": "${{ task.x }}"}}), "spec.with[\"a b\"][\"c.d\"]: ")]
#[case(json!("${{ task.x }}"), "spec.with: ")]
fn a_fault_in_a_tree_names_its_place(#[case] tree: serde_json::Value, #[case] expected: &str) {
    let error = ValueTemplate::compile(&tree, "spec.with")
        .expect_err("unknown name")
        .to_string();
    assert!(error.starts_with(expected), "{error}");
}
