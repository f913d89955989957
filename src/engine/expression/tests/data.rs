//! What becomes of data on its way through an expression.

use super::{WORKFLOW, evaluate};
use crate::engine::expression::{
    MAX_OUTPUT_BYTES, MAX_OUTPUT_DEPTH, Scope, ValueTemplate, from_cel, to_cel,
};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Any JSON value that fits the bounds of a result.
fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|number| Value::from(f64::from(number))),
        "\\PC{0,5}".prop_map(Value::from),
        "[${}()]{0,6}".prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 10, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,3}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// What the rule for numbers makes of a value.
fn normalised(value: &Value) -> Value {
    const SAFE: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(double) if double.fract() == 0.0 && double.abs() <= SAFE => {
                Value::from(double as i64)
            }
            Some(double) => Value::from(double),
            None => Value::Null,
        },
        Value::Array(items) => items.iter().map(normalised).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), normalised(value)))
            .collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn there_and_back_changes_nothing_but_the_form_of_numbers(value in any_json()) {
        let back = from_cel(to_cel(&value).as_ref());
        prop_assert_eq!(&back, &Ok(normalised(&value)));
        let again = back.as_ref().map(|value| from_cel(to_cel(value).as_ref()));
        prop_assert_eq!(again, Ok(back.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_reference_gives_the_input(value in any_json()) {
        prop_assert_eq!(evaluate("${{ inputs }}", &value), Ok(normalised(&value)));
        prop_assert_eq!(evaluate("${{ {'a': [inputs]}.a[0] }}", &value), Ok(normalised(&value)));
    }

    #[test]
    fn a_tree_without_expressions_stays_as_it_is(value in any_json()) {
        prop_assume!(!value.to_string().contains("${{"));
        let template = ValueTemplate::compile(&value, "").unwrap();
        prop_assert!(template.is_literal());
        let scope = Scope { inputs: &Value::Null, workflow: WORKFLOW, tasks: &BTreeMap::new(), item: None };
        prop_assert_eq!(template.evaluate(&scope), Ok(value));
    }
}

#[rstest]
#[case(json!(3), "int")]
#[case(json!(3.0), "int")]
#[case(json!(-0.0), "int")]
#[case(json!(1e3), "int")]
#[case(json!(3.5), "double")]
#[case(json!(9_007_199_254_740_992_i64), "int")]
#[case(json!(-9_007_199_254_740_992_i64), "int")]
#[case(json!(9_007_199_254_740_994_i64), "double")]
#[case(json!(u64::MAX), "double")]
#[case(json!(1e300), "double")]
fn numbers_are_int_where_they_can_be(#[case] number: Value, #[case] expected: &str) {
    assert_eq!(
        evaluate("${{ type(inputs) }}", &number),
        Ok(json!(expected))
    );
}

#[test]
fn a_result_may_be_large_but_not_too_large() {
    let fits = json!("x".repeat(MAX_OUTPUT_BYTES - 2));
    assert_eq!(evaluate("${{ inputs }}", &fits), Ok(fits.clone()));
    let too_large = json!("x".repeat(MAX_OUTPUT_BYTES - 1));
    let error = evaluate("${{ inputs }}", &too_large).expect_err("too large");
    assert!(error.message().contains("larger than 256 KiB"), "{error}");
    assert!(
        evaluate(
            "${{ inputs }}${{ inputs }}",
            &json!("x".repeat(MAX_OUTPUT_BYTES / 2))
        )
        .is_err()
    );
    assert!(
        evaluate(
            "${{ [inputs, inputs] }}",
            &json!("x".repeat(MAX_OUTPUT_BYTES / 2))
        )
        .is_err()
    );
    assert!(evaluate("${{ inputs.map(x, {'k': x}) }}", &json!(vec![1; 40_000])).is_err());
}

#[test]
fn a_result_may_be_deep_but_not_too_deep() {
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert!(evaluate("${{ inputs }}", &nested(MAX_OUTPUT_DEPTH)).is_ok());
    let error = evaluate("${{ [inputs] }}", &nested(MAX_OUTPUT_DEPTH)).expect_err("too deep");
    assert!(error.message().contains("levels deep"), "{error}");
}

#[test]
fn a_result_in_a_tree_counts_from_the_root() {
    let deep =
        |levels: usize| (0..levels).fold(json!("${{ inputs }}"), |inner, _| json!({"k": inner}));
    let inputs = (0..60).fold(json!(1), |inner, _| json!([inner]));
    let evaluate = |levels| {
        let scope = Scope {
            inputs: &inputs,
            workflow: WORKFLOW,
            tasks: &BTreeMap::new(),
            item: None,
        };
        ValueTemplate::compile(&deep(levels), "with")
            .unwrap()
            .evaluate(&scope)
    };
    assert!(evaluate(MAX_OUTPUT_DEPTH - 60).is_ok());
    assert!(evaluate(MAX_OUTPUT_DEPTH - 59).is_err());
}

#[test]
fn a_tree_is_evaluated_in_place() {
    let tree = json!({
        "text": "hello ${{ inputs.who }}", "number": "${{ inputs.count }}", "list": ["${{ inputs.list }}", "plain", 1],
        "${{ inputs.who }}": "keys are not expressions", "empty": {}, "nothing": [],
    });
    let inputs = json!({"who": "world", "count": 3.0, "list": [1, "two"]});
    let template = ValueTemplate::compile(&tree, "with").unwrap();
    let scope = Scope {
        inputs: &inputs,
        workflow: WORKFLOW,
        tasks: &BTreeMap::new(),
        item: None,
    };
    assert_eq!(
        template.evaluate(&scope),
        Ok(json!({
            "text": "hello world", "number": 3, "list": [[1, "two"], "plain", 1],
            "${{ inputs.who }}": "keys are not expressions", "empty": {}, "nothing": [],
        }))
    );
}

#[test]
fn a_fault_while_a_tree_is_evaluated_names_its_place() {
    let template = ValueTemplate::compile(
        &json!({"a": ["", "x${{ inputs.b }}"]}),
        "spec.tasks[2].with",
    )
    .unwrap();
    let scope = Scope {
        inputs: &json!({}),
        workflow: WORKFLOW,
        tasks: &BTreeMap::new(),
        item: None,
    };
    assert_eq!(
        template.evaluate(&scope).expect_err("no key").to_string(),
        "spec.tasks[2].with.a[1]: no such key: `b`; has(inputs.b) tells whether there is one, in ${{ inputs.b }}"
    );
}
