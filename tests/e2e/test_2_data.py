"""Data on its way from task to task: types, order, limits, and bytes that must stay what they are."""

import base64
import json

from harness.cluster import exit_code_of, task_of
from harness.events import whole_run
from harness.manifests import env, task, workflow

COPY = "cat $COMPOZY_INPUTS > $COMPOZY_OUTPUTS"


def test_a_chain_passes_typed_outputs(namespace):
    produced = {"number": 41, "ratio": 0.5, "list": [1, "two", None], "object": {"deep": {"flag": True}}, "text": "7"}
    produce = task("produce", 'printf %s "$JSON" > $COMPOZY_OUTPUTS', {"env": env(JSON=json.dumps(produced))})
    change = task(
        "change", COPY, dependsOn=["produce"],
        **{"with": {
            "number": "${{ tasks.produce.outputs.number + 1 }}",
            "ratio": "${{ tasks.produce.outputs.ratio }}",
            "list": "${{ tasks.produce.outputs.list }}",
            "second": "${{ tasks.produce.outputs.list[1] }}",
            "object": "${{ tasks.produce.outputs.object }}",
            "text": "${{ tasks.produce.outputs.text }}",
            "joined": "n=${{ tasks.produce.outputs.number }} o=${{ tasks.produce.outputs.object }}",
            "nested": [{"deeper": "${{ tasks.produce.outputs.object.deep.flag }}"}],
        }},
    )  # fmt: skip
    collect = task(
        "collect", COPY, dependsOn=["change"],
        **{"with": {"all": "${{ tasks.change.outputs }}", "sum": "${{ tasks.change.outputs.list[0] + 1 }}"}},
    )  # fmt: skip
    namespace.create(
        workflow("chain", produce, change, collect, outputs={"from": "${{ tasks.collect.outputs }}", "fixed": [1, {}]})
    )
    ended = namespace.succeeded("chain")

    changed = {
        "number": 42, "ratio": 0.5, "list": [1, "two", None], "second": "two", "object": {"deep": {"flag": True}},
        "text": "7", "joined": 'n=41 o={"deep":{"flag":true}}', "nested": [{"deeper": True}],
    }  # fmt: skip
    executions = namespace.executions("chain")
    assert executions["produce"]["status"]["outputs"] == produced
    assert executions["change"]["spec"]["inputs"] == changed
    assert ended["status"]["outputs"] == {"from": {"all": changed, "sum": 2}, "fixed": [1, {}]}


def test_a_diamond_runs_in_order_and_joins_both_sides(namespace, subscriber):
    say = 'echo "{\\"n\\": $N}" > $COMPOZY_OUTPUTS'
    pods = namespace.watch("pods")
    namespace.create(
        workflow(
            "diamond",
            task("top", say, {"env": env(N="1")}),
            task("left", say, {"env": env(N="${{ tasks.top.outputs.n * 10 }}")}, dependsOn=["top"]),
            task("right", say, {"env": env(N="${{ tasks.top.outputs.n * 100 }}")}, dependsOn=["top"]),
            task(
                "bottom",
                say,
                {"env": env(N="${{ tasks.left.outputs.n + tasks.right.outputs.n + tasks.top.outputs.n }}")},
                dependsOn=["left", "right"],
            ),
            outputs={"n": "${{ tasks.bottom.outputs.n }}"},
        )
    )
    assert namespace.succeeded("diamond")["status"]["outputs"] == {"n": 111}

    order = [task_of(pod) for kind, pod in pods.history if kind == "ADDED"]
    assert (order[0], set(order[1:3]), order[3:]) == ("top", {"left", "right"}, ["bottom"])
    for task_name, before in {"left": ["top"], "right": ["top"], "bottom": ["left", "right"]}.items():
        for ancestor in before:
            assert _created(pods, task_name) > _succeeded(pods, ancestor), (
                f"{task_name} started before {ancestor} ended"
            )
    whole_run(namespace, subscriber, "diamond")


def _created(pods, name):
    """The position in the watch of a task's first sight."""
    return next(index for index, (_, pod) in enumerate(pods.history) if task_of(pod) == name)


def _succeeded(pods, name):
    """The position in the watch of a task's success."""
    return next(index for index, (_, pod) in enumerate(pods.history) if task_of(pod) == name and exit_code_of(pod) == 0)


def test_forty_tasks_under_parallelism_ten_are_never_more_than_ten_at_once(namespace):
    pods, executions = namespace.watch("pods"), namespace.watch("te")
    namespace.create(workflow("wide", *(task(f"t-{number}") for number in range(40)), parallelism=10))
    namespace.succeeded("wide", timeout=110)

    under_way = executions.most_at_once(
        lambda execution: execution.get("status", {}).get("phase") not in ("Succeeded", "Failed", "Cancelled")
    )
    live = pods.most_at_once(lambda pod: exit_code_of(pod) is None)
    assert under_way == 10, "the limit is kept, and used"
    assert live <= 10
    assert len(pods.seen()) == 40


HOSTILE = {
    "quotes": """it's "quoted" and `ticked`, \\back\\\\slashed""",
    "variable": "$(COMPOZY_TASK_EXEC_ID) $$(COMPOZY_TASK_EXEC_ID) $$ $ $(x) ${HOME} $HOME $(cat /etc/passwd)",
    "lines": "first\n\n\tthird\r\nlast\n",
    "expression": "${{ inputs.secret }} }} ${{ ${{ 1 + 1 }}",
    "unicode": "h\u00e9llo \u2603 \U0001f600 \u202e\u200b\u2028 \u0001\u007f",
    "shell": "; rm -rf / # && echo $(id) | tee < /dev/null > /x \\\n *?[a]{b,c}~ !!",
    "blank": "  ",
    "empty": "",
    "json": '{"a": [1, null]}',
    "number": "007",
    "dash": "-n --version",
    "yaml": "key: [value] # no\n---\n- &a *a !!int 3",
}


def _in_base64(names):
    """A script that answers with each of these shell words in base64, on one line."""
    fields = [f'\\"{key}\\": \\"$(printf %s "{word}" | base64 | tr -d \'\\n\')\\"' for key, word in names.items()]
    return f'echo "{{{", ".join(fields)}}}" > $COMPOZY_OUTPUTS'


def _bytes_of(outputs):
    return {name: base64.b64decode(value) for name, value in outputs.items()}


def test_hostile_inputs_arrive_as_the_bytes_they_are(namespace):
    variables = {f"V_{name.upper()}": f"${{{{ inputs.{name} }}}}" for name in HOSTILE}
    as_env = task("env", _in_base64({name: f"$V_{name.upper()}" for name in HOSTILE}), {"env": env(**variables)})

    joined = {f"J_{name.upper()}": f"<${{{{ inputs.{name} }}}}|${{{{ inputs.{name} }}}}>" for name in HOSTILE}
    in_text = task("joined", _in_base64({name: f"$J_{name.upper()}" for name in HOSTILE}), {"env": env(**joined)})

    as_args = task("args")
    as_args["container"]["command"] = ["sh", "-c", _in_base64({name: f"${{{i}}}" for i, name in enumerate(HOSTILE)})]
    as_args["container"]["args"] = [f"${{{{ inputs.{name} }}}}" for name in HOSTILE]

    # A literal $ must not join with a result into a reference that the kubelet would follow.
    as_dollar = task(
        "dollar",
        _in_base64({"value": "$VALUE"}),
        {"env": env(VALUE="$${{ inputs.open }}COMPOZY_TASK_EXEC_ID${{ inputs.close }} $${{ inputs.call }}")},
    )
    data = {**HOSTILE, "open": "(", "close": ")", "call": "(COMPOZY_TASK_EXEC_ID)", "secret": "leaked"}
    namespace.create(workflow("hostile", as_env, in_text, as_args, as_dollar, inputs=data))
    namespace.succeeded("hostile")

    executions = namespace.executions("hostile")
    plain = {name: value.encode() for name, value in HOSTILE.items()}
    assert _bytes_of(executions["env"]["status"]["outputs"]) == plain
    assert _bytes_of(executions["args"]["status"]["outputs"]) == plain
    assert _bytes_of(executions["joined"]["status"]["outputs"]) == {
        name: b"<" + value + b"|" + value + b">" for name, value in plain.items()
    }
    assert _bytes_of(executions["dollar"]["status"]["outputs"]) == {
        "value": b"$(COMPOZY_TASK_EXEC_ID) $(COMPOZY_TASK_EXEC_ID)"
    }


def test_hostile_inputs_arrive_in_the_inputs_file_and_pass_on_unchanged(namespace):
    first = task("first", COPY, **{"with": {"data": "${{ inputs }}", "${{ key }}": "a key is no template"}})
    second = task("second", COPY, dependsOn=["first"], **{"with": "${{ tasks.first.outputs }}"})
    namespace.create(
        workflow("file", first, second, inputs=HOSTILE, outputs={"back": "${{ tasks.second.outputs.data }}"})
    )
    ended = namespace.succeeded("file")
    assert ended["status"]["outputs"] == {"back": HOSTILE}
    assert namespace.executions("file")["second"]["status"]["outputs"]["${{ key }}"] == "a key is no template"


def test_large_inputs_arrive_too(namespace):
    # Without a comma and an a in what JSON adds, so that counting the letters tells whether all came.
    blob = "a" * 200_000
    count = 'echo "{\\"letters\\": $(tr -cd a < $COMPOZY_INPUTS | wc -c)}" > $COMPOZY_OUTPUTS'
    namespace.create(
        workflow("large", task("count", count, **{"with": {"blob": "${{ inputs.it }}"}}), inputs={"it": blob})
    )
    namespace.succeeded("large")
    assert namespace.executions("large")["count"]["status"]["outputs"] == {"letters": len(blob)}


def test_a_task_knows_who_it_is(namespace):
    say = (
        'echo "{\\"task\\": \\"$COMPOZY_TASK_EXEC_ID\\", \\"run\\": \\"$COMPOZY_WORKFLOW_EXEC_ID\\",'
        ' \\"attempt\\": $COMPOZY_ATTEMPT, \\"key\\": \\"$COMPOZY_IDEMPOTENCY_KEY\\"}" > $COMPOZY_OUTPUTS'
    )
    run = namespace.create(workflow("who", task("am-i", say)))["metadata"]["uid"]
    namespace.succeeded("who")
    execution = namespace.executions("who")["am-i"]
    outputs = execution["status"]["outputs"]
    assert outputs["task"] == execution["metadata"]["uid"]
    assert outputs["run"] == run
    assert outputs["attempt"] == 1
    assert outputs["key"]
