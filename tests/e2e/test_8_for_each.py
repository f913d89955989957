"""A task that runs once for each item of a list: in order, within its limits, each item once whatever happens."""

import pytest

from harness.events import by_object, names, whole_run
from harness.manifests import HANG, env, task, workflow

SAY = 'echo "{\\"n\\": $N}" > $COMPOZY_OUTPUTS'


def item(execution):
    return execution["spec"]["index"]


def items_of(executions, name):
    """The task executions of the items of a task, in order."""
    return sorted((te for te in executions.values() if te["spec"]["task"] == name), key=item)


def row(run, name):
    return next(row for row in run["status"]["tasks"] if row["name"] == name)


def test_outputs_are_a_list_in_the_order_of_the_items(namespace, subscriber):
    each = task("each", SAY, {"env": env(N="${{ item * 10 + index }}")}, forEach={"items": "${{ inputs.list }}"})
    last = task(
        "last", "cat $COMPOZY_INPUTS > $COMPOZY_OUTPUTS", dependsOn=["each"],
        **{"with": {"all": "${{ tasks.each.outputs.map(one, one.n) }}"}},
    )  # fmt: skip
    given = [5, 3, 9, 1]
    namespace.create(
        workflow("ordered", each, last, inputs={"list": given}, outputs={"all": "${{ tasks.last.outputs.all }}"})
    )
    ended = namespace.succeeded("ordered")
    assert ended["status"]["outputs"]["all"] == [number * 10 + place for place, number in enumerate(given)]
    assert ended["status"]["done"] == "5/5"
    counts = row(ended, "each")
    assert (counts["total"], counts["succeeded"], counts["running"]) == (4, 4, 0)
    executions = items_of(namespace.executions("ordered"), "each")
    assert [item(te) for te in executions] == [0, 1, 2, 3]
    assert [te["metadata"]["labels"]["compozy.dev/index"] for te in executions] == ["0", "1", "2", "3"]
    objects = by_object(whole_run(namespace, subscriber, "ordered"))
    for te in executions:
        messages = objects[te["metadata"]["uid"]]
        assert names(messages) == ["scheduled", "started", "completed"]
        assert {message.payload["index"] for message in messages} == {item(te)}


def test_no_items_succeed_at_once(namespace, subscriber):
    each = task("each", forEach={"items": []})
    namespace.create(workflow("nothing", each, outputs={"all": "${{ tasks.each.outputs }}"}))
    ended = namespace.succeeded("nothing")
    assert ended["status"]["outputs"]["all"] == []
    assert not namespace.executions("nothing")
    whole_run(namespace, subscriber, "nothing")


def test_no_more_items_than_may_are_under_way(namespace):
    executions = namespace.watch("te")
    each = task("each", "sleep 1", forEach={"items": list(range(6)), "maxParallel": 2})
    namespace.create(workflow("limited", each))
    namespace.succeeded("limited", timeout=90)

    def is_open(te):
        return te.get("status", {}).get("phase") not in ("Succeeded", "Failed", "Cancelled")

    assert executions.most_at_once(is_open) == 2


def test_a_failed_item_ends_the_others_if_that_is_wanted(namespace, subscriber):
    script = f'[ "$N" != 1 ] || {{ sleep 2; exit 1; }}; {HANG}'
    each = task("each", script, {"env": env(N="${{ item }}")}, forEach={"items": [0, 1, 2], "failurePolicy": "Cancel"})
    namespace.create(workflow("cancels", each))
    error = namespace.failed("cancels", timeout=90)
    assert error["details"]["failed_index"] == 1
    phases = [te["status"]["phase"] for te in items_of(namespace.executions("cancels"), "each")]
    assert phases == ["Cancelled", "Failed", "Cancelled"]
    whole_run(namespace, subscriber, "cancels")


def test_a_cancelled_run_ends_its_items_and_starts_no_other(namespace, subscriber):
    pods = namespace.watch("pods")
    each = task("each", HANG, forEach={"items": list(range(5))})
    namespace.create(workflow("cancelled", each, parallelism=2))
    pods.until(lambda seen: len(seen.objects) == 2, what="two pods")
    namespace.patch("cw", "cancelled", {"spec": {"cancel": {"reason": "enough"}}})
    ended = namespace.finished("cancelled", timeout=90)
    counts = row(ended, "each")
    assert (ended["status"]["phase"], counts["failed"], counts["skipped"]) == ("Cancelled", 2, 3)
    whole_run(namespace, subscriber, "cancelled")


@pytest.mark.own_operator
def test_every_item_runs_once_over_the_death_of_the_operator(namespace, subscriber, host_operator):
    host_operator.start().leads()
    pods = namespace.watch("pods")
    each = task("each", f"sleep 1; {SAY}", {"env": env(N="${{ item }}")}, forEach={"items": list(range(12))})
    namespace.create(workflow("killed", each, parallelism=3, outputs={"all": "${{ tasks.each.outputs }}"}))
    for count in (2, 6, 9):
        pods.until(lambda seen, count=count: len(seen.seen()) >= count, timeout=60, what=f"{count} pods")
        host_operator.kill()
        host_operator.start()
    ended = namespace.succeeded("killed", timeout=120)
    assert ended["status"]["outputs"]["all"] == [{"n": number} for number in range(12)]
    assert len(pods.seen()) == 12
    whole_run(namespace, subscriber, "killed")
