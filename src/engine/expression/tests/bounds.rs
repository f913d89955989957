//! Nothing that a user writes stops the operator.

use super::evaluate;
use crate::engine::expression::{MAX_EXPRESSION_BYTES, Template};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

fn compile(expression: &str) -> Result<Template, String> {
    Template::compile(&format!("${{{{{expression}}}}}")).map_err(|error| error.message().to_owned())
}

#[rstest]
#[case("1", "+1")]
#[case("'a'", ".size()")]
#[case("inputs", ".a")]
#[case("inputs", "[0]")]
#[case("[1]", ".map(x,[x])")]
#[case("1", "==1")]
#[case("1", " in [1]")]
fn long_chains_are_refused(#[case] first: &str, #[case] link: &str) {
    let error = compile(&format!("{first}{}", link.repeat(200))).expect_err(link);
    assert!(error.contains("levels deep"), "{error}");
    assert!(compile(&format!("{first}{}", link.repeat(20))).is_ok());
}

#[rstest]
#[case("(", ")")]
#[case("[", "]")]
#[case("{'a':", "}")]
#[case("int(", ")")]
#[case("true?1:", "")]
#[case("[1].map(x,", ")")]
fn deep_nests_are_refused(#[case] open: &str, #[case] close: &str) {
    let nest =
        |levels: usize| compile(&format!("{}1{}", open.repeat(levels), close.repeat(levels)));
    let error = nest(100).expect_err(open);
    assert!(error.contains("levels deep"), "{error}");
    assert!(nest(24).is_ok());
}

#[test]
fn long_lists_and_alternatives_are_fine() {
    assert!(compile(&format!("[{}]", vec!["inputs.a"; 400].join(","))).is_ok());
    assert!(
        compile(&format!(
            "{{{}}}",
            (0..200)
                .map(|i| format!("'k{i}': {i}"))
                .collect::<Vec<_>>()
                .join(",")
        ))
        .is_ok()
    );
    assert!(compile(&vec!["inputs.a == 'x'"; 40].join(" || ")).is_ok());
    assert!(compile(&vec!["inputs.a.b + ','"; 40].join(" + ")).is_ok());
}

#[test]
fn long_expressions_are_refused() {
    let fits = format!("'{}'", "x".repeat(MAX_EXPRESSION_BYTES - 2));
    assert!(compile(&fits).is_ok());
    let error = compile(&format!("{fits} ")).expect_err("too long");
    assert!(error.contains("at most 4096"), "{error}");
}

/// Each of these would run for a very long time, or take very much memory.
#[rstest]
#[case("inputs.map(a, inputs.map(b, inputs.map(c, inputs.map(d, 1))))")]
#[case("inputs.all(a, inputs.all(b, inputs.all(c, a + b + c >= 0)))")]
#[case("inputs.exists(a, inputs.exists(b, inputs.exists(c, a + b + c < 0)))")]
#[case("inputs.filter(a, inputs.filter(b, inputs.exists_one(c, c == 5)) == [])")]
#[case("inputs.map(a, inputs)")]
#[case("inputs.map(a, [inputs, inputs]).map(a, [a, a])")]
#[case("inputs.all(a, inputs == inputs)")]
#[case("inputs.all(a, !(-1 in inputs))")]
#[case("inputs.all(a, (inputs + inputs) != [])")]
#[case("inputs.exists(a, (inputs - 1) == 2)")]
#[case("inputs.exists(a, (inputs < 1) == 2)")]
#[case("inputs.exists(a, {inputs: 1} == 2)")]
#[case("inputs.map(a, inputs.map(b, '0123456789'.matches('^[0-9]{10,100}$')))")]
fn expensive_expressions_are_stopped(#[case] expression: &str) {
    let inputs: Value = (0..2000).collect();
    stopped(expression, &inputs);
}

#[rstest]
#[case(".map(x, x + x)")]
#[case(".map(x, [x, x])")]
#[case(".map(x, {'a': x, 'b': x})")]
fn doubling_is_stopped(#[case] link: &str) {
    stopped(
        &format!("[inputs]{}", link.repeat(30)),
        &json!("0123456789"),
    );
}

#[test]
fn long_texts_count() {
    let inputs = json!({"text": "x".repeat(100_000), "list": vec![1; 2000]});
    stopped("inputs.list.all(a, size(inputs.text) > 0)", &inputs);
    stopped("inputs.list.all(a, !inputs.text.contains('y'))", &inputs);
    stopped("inputs.list.all(a, inputs.text + 'a' != '')", &inputs);
    stopped(
        "inputs.list.all(a, inputs.text < inputs.text || true)",
        &inputs,
    );
    stopped(
        "inputs.list.all(a, !inputs.text.matches('(x+x+)+y'))",
        &inputs,
    );
    stopped(
        &format!("inputs.many.map(a, '{}')", "y".repeat(3000)),
        &json!({"many": vec![1; 20_000]}),
    );
}

fn stopped(expression: &str, inputs: &Value) {
    let error = evaluate(&format!("${{{{ {expression} }}}}"), inputs).expect_err(expression);
    assert!(
        error.message().contains("more than 1000000 steps"),
        "{error}"
    );
}

#[test]
fn useful_work_is_not_stopped() {
    let items: Vec<Value> = (0..5000)
        .map(|i| json!({"id": i, "name": format!("item-{i}"), "tags": ["a", "b"]}))
        .collect();
    let inputs = json!({ "items": items });
    for expression in [
        "inputs.items.filter(i, i.id % 2 == 0).map(i, i.name)",
        "inputs.items.exists(i, i.name == 'item-4999' && 'b' in i.tags)",
        "inputs.items.map(i, {'id': i.id, 'label': i.name + '!'}).size()",
        "inputs.items.all(i, i.name.startsWith('item'))",
        "inputs.items.filter(i, i.id < 500).all(i, i.name.matches('^item-[0-9]{1,4}$'))",
    ] {
        let result = evaluate(&format!("${{{{ {expression} }}}}"), &inputs);
        assert!(result.is_ok(), "{expression}: {result:?}");
    }
}

/// Words and signs of the language, valid and not.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        prop::sample::select(vec![
            "inputs",
            "tasks",
            "workflow",
            "tasks.a.outputs",
            "inputs.a",
            "x",
            "true",
            "null",
            "1",
            "-1",
            "1.5",
            "2u",
            "0x1f",
            "1e9",
            "'s'",
            "\"d\"",
            "'''t'''",
            "r'\\'",
            "b'\\xff'",
            "'é😀'",
            "'\\u00e9'",
            "has(",
            "size(",
            "string(",
            "int(",
            "[",
            "]",
            "(",
            ")",
            "{",
            "}",
            "{'a':",
            ".map(x,",
            ".filter(x,",
            ".all(x,",
            ".exists(x,",
            ".exists_one(x,",
            ".matches(",
            ".a",
            ".",
            ",",
            ":",
            "?",
            "+",
            "-",
            "*",
            "/",
            "%",
            "==",
            "!=",
            "<",
            "<=",
            "&&",
            "||",
            "!",
            " in ",
            "//",
            "\n",
            "\\",
            "`a`",
            "@",
            "$",
            "#",
            "'",
            "\"",
            "'''",
            "é",
            "\u{0}",
            "duration('1h')",
            "timestamp('2026-01-01T00:00:00Z')",
            "9223372036854775807",
            "-9223372036854775808",
            "getDayOfYear('-23:59')",
            ".getHours()",
            "Foo{a:1}",
            ".?a",
            "[?0]",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
    ];
    prop::collection::vec(fragment, 0..14).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_makes_the_compiler_or_the_interpreter_panic(text in fragments(), closed in any::<bool>()) {
        let end = if closed { "}}" } else { "" };
        if let Ok(template) = Template::compile(&format!("a${{{{{text}{end}")) {
            let inputs = json!({"a": [1, 2.5, "x", null, {"b": true}]});
            let tasks = std::collections::BTreeMap::new();
            let scope = crate::engine::expression::Scope { inputs: &inputs, workflow: super::WORKFLOW, tasks: &tasks, item: None };
            let _result = template.evaluate(&scope);
        }
    }
}
