//! Results arrive in a container byte by byte, whatever the kubelet does with `$`.

use super::WORKFLOW;
use crate::engine::expression::kubelet::{before_result, escape, opens_reference};
use crate::engine::expression::{Scope, Template};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;
use std::collections::BTreeMap;

/// What the kubelet makes of a string: `$$` is `$`, `$(NAME)` the value of a variable it knows,
/// anything else itself.
fn expand(text: &str, variables: &BTreeMap<&str, &str>) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'$' || at + 1 == bytes.len() {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        match bytes[at + 1] {
            b'$' => {
                out.push(b'$');
                at += 2;
            }
            b'(' => match bytes[at + 2..].iter().position(|byte| *byte == b')') {
                Some(length) => {
                    let name = &text[at + 2..at + 2 + length];
                    match variables.get(name) {
                        Some(value) => out.extend_from_slice(value.as_bytes()),
                        None => out.extend_from_slice(&bytes[at..at + length + 3]),
                    }
                    at += length + 3;
                }
                None => {
                    out.extend_from_slice(b"$(");
                    at += 2;
                }
            },
            other => {
                out.extend_from_slice(&[b'$', other]);
                at += 2;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

fn variables() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("A", "value of a"),
        ("DB_PASSWORD", "hunter2"),
        ("", "nameless"),
    ])
}

fn for_kubelet(template: &str, inputs: &serde_json::Value) -> String {
    let template = Template::compile_for_kubelet(template).unwrap();
    template
        .evaluate_for_kubelet(&Scope {
            inputs,
            workflow: WORKFLOW,
            tasks: &BTreeMap::new(),
            item: None,
        })
        .unwrap()
}

#[rstest]
#[case("${{ inputs.x }}", "$(DB_PASSWORD)", "$(DB_PASSWORD)")]
#[case("$${{ inputs.x }}", "(DB_PASSWORD)", "$(DB_PASSWORD)")]
#[case("$$${{ inputs.x }}", "(DB_PASSWORD)", "$(DB_PASSWORD)")]
#[case("$$$${{ inputs.x }}", "(DB_PASSWORD)", "$$(DB_PASSWORD)")]
#[case("$${{ inputs.x }}(DB_PASSWORD)", "", "$(DB_PASSWORD)")]
#[case("${{ inputs.x }}(DB_PASSWORD)", "$", "$(DB_PASSWORD)")]
#[case("${{ inputs.x }}${{ '(DB_PASSWORD)' }}", "$", "$(DB_PASSWORD)")]
#[case("$(A) ${{ inputs.x }} $(A)", "$(A)", "value of a $(A) value of a")]
#[case("$$(A) ${{ inputs.x }}", "x", "$(A) x")]
#[case("$(UNKNOWN)${{ inputs.x }}", "x", "$(UNKNOWN)x")]
#[case("echo $HOME ${{ inputs.x }} $", "$$", "echo $HOME $$ $")]
#[case("plain $(A) $$", "", "plain value of a $")]
fn a_container_sees(#[case] template: &str, #[case] input: &str, #[case] expected: &str) {
    assert_eq!(
        expand(&for_kubelet(template, &json!({"x": input})), &variables()),
        expected
    );
}

#[test]
fn results_that_are_not_text_are_json() {
    let inputs = json!({"x": {"a": ["$(A)", 1.0, null]}});
    assert_eq!(
        expand(&for_kubelet("${{ inputs.x }}", &inputs), &variables()),
        r#"{"a":["$(A)",1,null]}"#
    );
}

#[rstest]
#[case("$(${{ inputs.x }})")]
#[case("$(A${{ inputs.x }}")]
#[case("$(date ${{ inputs.x }})")]
#[case("$((1 + ${{ inputs.x }}))")]
#[case("$$$(${{ inputs.x }})")]
#[case("${{ inputs.x }} $( ${{ inputs.x }} )")]
fn an_expression_inside_a_reference_is_refused(#[case] template: &str) {
    let error = Template::compile_for_kubelet(template).expect_err(template);
    assert!(error.message().contains("write `$$(`"), "{error}");
    // Whoever compiled it without that check gets no way around it.
    let template = Template::compile(template).unwrap();
    let scope = Scope {
        inputs: &json!({"x": "A"}),
        workflow: WORKFLOW,
        tasks: &BTreeMap::new(),
        item: None,
    };
    assert!(template.evaluate_for_kubelet(&scope).is_err());
}

#[test]
fn a_nul_cannot_be_handed_to_a_process() {
    let template = Template::compile_for_kubelet("a${{ inputs.x }}").unwrap();
    let scope = Scope {
        inputs: &json!({"x": "\0"}),
        workflow: WORKFLOW,
        tasks: &BTreeMap::new(),
        item: None,
    };
    let error = template.evaluate_for_kubelet(&scope).expect_err("NUL");
    assert!(error.message().contains("NUL"), "{error}");
}

/// Text in which everything that means something to the kubelet is common.
fn tricky() -> impl Strategy<Value = String> {
    let bits = vec![
        "$",
        "$",
        "(",
        ")",
        "A",
        "DB_PASSWORD",
        "$(A)",
        "$$",
        "{",
        "é",
        " ",
        "\n",
    ];
    prop::collection::vec(prop::sample::select(bits), 0..8).prop_map(|bits| bits.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// What the kubelet makes of literals and results in turn is what it makes of each literal, and
    /// the results as they are.
    #[test]
    fn any_result_arrives_unchanged(pieces in prop::collection::vec((tricky(), tricky()), 1..4), last in tricky()) {
        let mut argument = String::new();
        let mut expected = String::new();
        for (mut literal, result) in pieces {
            if opens_reference(&literal) {
                literal.push(')');
            }
            argument.push_str(&before_result(&literal));
            argument.push_str(&escape(&result));
            expected.push_str(&expand(&literal, &variables()));
            expected.push_str(&result);
        }
        argument.push_str(&before_result(&last));
        expected.push_str(&expand(&last, &variables()));
        prop_assert_eq!(expand(&argument, &variables()), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The same through templates.
    #[test]
    fn any_result_of_a_template_arrives_unchanged(results in prop::collection::vec(tricky(), 1..3), before in tricky(), after in tricky()) {
        prop_assume!(!before.contains("${{") && !after.contains("${{"));
        let expressions = (0..results.len()).map(|index| format!("${{{{ inputs[{index}] }}}}"));
        let template = format!("{before}{}{after}", expressions.collect::<String>());
        let Ok(template) = Template::compile_for_kubelet(&template) else {
            prop_assert!(opens_reference(&before));
            return Ok(());
        };
        let inputs = json!(results);
        let scope = Scope { inputs: &inputs, workflow: WORKFLOW, tasks: &BTreeMap::new(), item: None };
        let seen = expand(&template.evaluate_for_kubelet(&scope).unwrap(), &variables());
        prop_assert_eq!(seen, expand(&before, &variables()) + &results.concat() + &expand(&after, &variables()));
    }
}
