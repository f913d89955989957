//! What expressions can say.

use super::{evaluate, result_of};
use crate::engine::expression::Template;
use rstest::rstest;
use serde_json::{Value, json};

#[rstest]
#[case("inputs.who", json!("world"))]
#[case("inputs['who']", json!("world"))]
#[case("inputs['odd key'] + inputs['']", json!("oddempty"))]
#[case("inputs.count + 1", json!(4))]
#[case("inputs.whole + 1", json!(5))]
#[case("double(inputs.count) + inputs.ratio", json!(4.5))]
#[case("inputs.count < inputs.ratio", json!(false))]
#[case("inputs.whole == 4 && inputs.whole == 4.0", json!(true))]
#[case("inputs.none", Value::Null)]
#[case("inputs.flag ? 'yes' : 'no'", json!("yes"))]
#[case("!inputs.flag || true", json!(true))]
#[case("-inputs.count", json!(-3))]
#[case("inputs.map", json!({"a": 2, "m": 3, "z": 1}))]
#[case("inputs.map.map(k, k)", json!(["a", "m", "z"]))]
#[case("inputs.map.map(k, inputs.map[k])", json!([2, 3, 1]))]
#[case("inputs.map.filter(k, inputs.map[k] > 1)", json!(["a", "m"]))]
#[case("inputs.items.map(i, i.id)", json!([1, 2, 3]))]
#[case("inputs.items.map(i, i.tag == 'a', i.id * 10)", json!([10, 30]))]
#[case("inputs.items.filter(i, i.id > 1).map(i, i.tag)", json!(["b", "a"]))]
#[case("inputs.items.all(i, i.id > 0)", json!(true))]
#[case("inputs.items.exists(i, i.tag == 'c')", json!(false))]
#[case("inputs.items.exists_one(i, i.tag == 'b')", json!(true))]
#[case("inputs.items.existsOne(i, i.tag == 'a')", json!(false))]
#[case("inputs.items.map(i, inputs.items.map(j, i.id * j.id))", json!([[1, 2, 3], [2, 4, 6], [3, 6, 9]]))]
#[case("[3, 1].map(inputs_, inputs_ + inputs.count)", json!([6, 4]))]
#[case("has(inputs.who) && !has(inputs.nobody)", json!(true))]
#[case("has(inputs.nobody) ? inputs.nobody : 'default'", json!("default"))]
#[case("'who' in inputs && !('x' in inputs) && 2 in [1, 2]", json!(true))]
#[case("size(inputs.who) + inputs.items.size() + size(inputs.map)", json!(11))]
#[case("size('πέντε')", json!(5))]
#[case("inputs.who.startsWith('wo') && inputs.who.endsWith('ld') && inputs.who.contains('rl')", json!(true))]
#[case("inputs.who.matches('^w.+d$') && matches(inputs.who, 'o')", json!(true))]
#[case("'a' + string(1) + string(true) + string(2.5)", json!("a1true2.5"))]
#[case("int('42') + int(2.9)", json!(44))]
#[case("[1, 2] + [3]", json!([1, 2, 3]))]
#[case("[[1]][0][0]", json!(1))]
#[case("{'a': [1, {'b': null}], 1: 'int', true: 'bool'}", json!({"a": [1, {"b": null}], "1": "int", "true": "bool"}))]
#[case("type(inputs.count) == int && type(inputs.ratio) == double && type(inputs.none) == null_type", json!(true))]
#[case("type(inputs.who)", json!("string"))]
#[case("5u + 2u", json!(7))]
#[case("10 / 3", json!(3))]
#[case("10.0 / 4.0", json!(2.5))]
#[case("10.0 / 5.0", json!(2))]
#[case("7 % 4", json!(3))]
#[case("timestamp('2026-01-02T03:04:05.500Z')", json!("2026-01-02T03:04:05.5Z"))]
#[case("timestamp('2026-01-02T03:04:05Z') + duration('1h')", json!("2026-01-02T04:04:05Z"))]
#[case("timestamp('2026-01-02T03:04:05Z').getFullYear()", json!(2026))]
#[case("duration('1h30m')", json!("5400s"))]
#[case("string(b'abc')", json!("abc"))]
#[case(r"'it\'s \u00e9 \\ $' + r'\n' + '''a'b'''", json!(r"it's é \ $\na'b"))]
#[case("inputs.who // a comment", json!("world"))]
#[case("tasks.build.phase", json!("Succeeded"))]
#[case("tasks.build.outputs.text + string(tasks.build.attempts)", json!("built2"))]
#[case("tasks['a-b'].error.code", json!("TASK_FAILED"))]
#[case("tasks['a-b']['outputs']", json!({}))]
#[case("tasks.build.error == null", json!(true))]
#[case("tasks.build.outputs.nested.list[1]", json!(2))]
#[case("has(tasks.build.outputs.text) && !has(tasks.build.outputs.nothing)", json!(true))]
#[case("has(tasks.build)", json!(true))]
#[case("tasks.build", json!({"phase": "Succeeded", "outputs": {"text": "built", "size": 7, "nested": {"list": [1, 2]}}, "error": null, "attempts": 2}))]
#[case("tasks.build['phase']", json!("Succeeded"))]
#[case("tasks.build[['phase'][0]]", json!("Succeeded"))]
#[case("workflow.namespace + '/' + workflow.name + '/' + workflow['uid']", json!("default/hello/7d3f"))]
#[case("workflow", json!({"name": "hello", "namespace": "default", "uid": "7d3f"}))]
#[case("false && inputs.nobody", json!(false))]
#[case("dyn(1) == 1.0", json!(true))]
fn an_expression_gives(#[case] expression: &str, #[case] expected: Value) {
    assert_eq!(result_of(expression), Ok(expected));
}

#[rstest]
#[case("", json!(""))]
#[case("plain", json!("plain"))]
#[case("a } b }} c", json!("a } b }} c"))]
#[case("$ {{ x }} ${ y }", json!("$ {{ x }} ${ y }"))]
#[case("${{ inputs }}", json!({"a": 1, "s": "text", "l": [1, 2.5, null], "d": 3}))]
#[case("${{inputs.a}}", json!(1))]
#[case(" ${{ inputs.a }}", json!(" 1"))]
#[case("${{ inputs.a }}${{ inputs.s }}", json!("1text"))]
#[case("<${{ inputs.l }}|${{ inputs.d }}|${{ null }}|${{ 1 == 1 }}>", json!("<[1,2.5,null]|3|null|true>"))]
#[case("${{ {'k': inputs.s} }}!", json!(r#"{"k":"text"}!"#))]
#[case("${{{'k': {'j': 1}}.k.j}}", json!(1))]
#[case("${{ '}}' }}", json!("}}"))]
#[case("${{ \"}}\" + '}}' }}}}", json!("}}}}}}"))]
#[case("${{ '\\'}}' }}", json!("'}}"))]
#[case("${{ r'\\' + '}}' }}", json!("\\}}"))]
#[case("${{ '''a}}'b''' }}", json!("a}}'b"))]
#[case("${{ 'x' // it's a comment }}!", json!("x!"))]
#[case("${{ '${{' }}", json!("${{"))]
#[case("${{ '${{ inputs.a }}' }}", json!("${{ inputs.a }}"))]
#[case("é${{ 'ü' }}😀", json!("éü😀"))]
#[case("${{\n  inputs.a\n    + 1 // one\n}}", json!(2))]
fn a_template_gives(#[case] template: &str, #[case] expected: Value) {
    let inputs = json!({"a": 1, "s": "text", "l": [1, 2.5, null], "d": 3.0});
    assert_eq!(evaluate(template, &inputs), Ok(expected));
}

#[test]
fn results_are_never_evaluated_again() {
    let inputs = json!({"a": "${{ inputs.b }}", "b": "secret"});
    assert_eq!(
        evaluate("${{ inputs.a }} ${{ inputs.a }}", &inputs),
        Ok(json!("${{ inputs.b }} ${{ inputs.b }}"))
    );
}

#[rstest]
#[case("", true)]
#[case("$(A) {{ }}", true)]
#[case("${{ 1 }}", false)]
fn literals_are_told_apart(#[case] template: &str, #[case] expected: bool) {
    assert_eq!(
        Template::compile(template).map(|template| template.is_literal()),
        Ok(expected)
    );
}
