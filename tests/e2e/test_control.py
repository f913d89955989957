"""Ends that are decided: cancel, timeouts, failure policies; and what a workflow may say about its pods."""

import pytest

from harness import cluster
from harness.events import by_object, names, whole_run
from harness.manifests import HANG, retry, task, workflow


def rows(ended):
    """The phase of each task as the run's status tells."""
    return {row["name"]: row["phase"] for row in ended["status"]["tasks"]}


def test_cancel_stops_what_runs_and_starts_nothing_more(namespace, subscriber):
    pods = namespace.watch("pods")
    run = namespace.create(
        workflow("stopped", task("done"), task("now", HANG, dependsOn=["done"]), task("later", dependsOn=["now"]))
    )["metadata"]["uid"]
    pods.one(
        lambda pod: pod["metadata"]["labels"]["compozy.dev/task"] == "now" and pod["status"].get("phase") == "Running",
        what="the second task running",
    )
    namespace.wait("--for=jsonpath={.status.phase}=Running", "te", "-l", "compozy.dev/task=now", timeout=15)
    namespace.patch("cw", "stopped", {"spec": {"cancel": {"reason": "changed my mind"}}})
    ended = namespace.finished("stopped", timeout=30)
    assert ended["status"]["phase"] == "Cancelled"
    executions = namespace.executions("stopped")
    assert {name: found["status"]["phase"] for name, found in executions.items()} == {
        "done": "Succeeded", "now": "Cancelled",
    }  # fmt: skip
    assert "later" in rows(ended) and rows(ended)["later"] not in ("Running", "Succeeded")
    objects = by_object(whole_run(namespace, subscriber, "stopped"))
    assert names(objects[run]) == ["started", "cancelled"]
    assert objects[run][1].payload["reason"] == "changed my mind"
    now = objects[executions["now"]["metadata"]["uid"]]
    assert names(now) == ["scheduled", "started", "cancelled"]
    assert now[2].payload["reason"]
    with pytest.raises(cluster.Refused) as refused:
        namespace.patch("cw", "stopped", {"spec": {"cancel": None}})
    assert "spec.cancel cannot be withdrawn" in refused.value.stderr


def test_a_workflow_cancelled_from_the_start_runs_nothing(namespace, subscriber):
    pods = namespace.watch("pods")
    namespace.create(workflow("stillborn", task("never"), cancel={"reason": "dry run"}))
    assert namespace.finished("stillborn", timeout=30)["status"]["phase"] == "Cancelled"
    assert not pods.seen()
    assert names(whole_run(namespace, subscriber, "stillborn")) == ["started", "cancelled"]


def test_the_timeout_of_a_workflow_ends_it(namespace, subscriber):
    pods = namespace.watch("pods")
    run = namespace.create(workflow("slow", task("hang", HANG), task("later", dependsOn=["hang"]), timeout="5s"))
    ended = namespace.finished("slow", timeout=40)
    assert ended["status"]["phase"] == "TimedOut"
    assert namespace.executions("slow")["hang"]["status"]["phase"] in ("Failed", "Cancelled")
    assert len(pods.seen()) == 1
    objects = by_object(whole_run(namespace, subscriber, "slow"))
    of_run = objects[run["metadata"]["uid"]]
    assert names(of_run) == ["started", "timed_out"]
    assert of_run[1].payload["timeout_duration_ms"] == 5000


def failing_run(policy):
    """A task that fails at once beside a chain that needs longer."""
    return (
        task("bad", "exit 1"),
        task("after-bad", dependsOn=["bad"]),
        task("slow", "sleep 4"),
        task("after-slow", dependsOn=["slow"]),
    ), ({"failurePolicy": policy} if policy else {})


@pytest.mark.parametrize("policy", [None, "FailFast"])
def test_fail_fast_lets_what_runs_finish_and_starts_nothing_new(namespace, policy):
    tasks, spec = failing_run(policy)
    namespace.create(workflow("fast", *tasks, **spec))
    error = namespace.failed("fast")
    assert error["details"]["failed_task_id"] == "bad"
    phases = {name: found["status"]["phase"] for name, found in namespace.executions("fast").items()}
    assert phases == {"bad": "Failed", "slow": "Succeeded"}


def test_complete_lets_independent_branches_go_on(namespace):
    tasks, spec = failing_run("Complete")
    namespace.create(workflow("complete", *tasks, **spec))
    namespace.failed("complete")
    phases = {name: found["status"]["phase"] for name, found in namespace.executions("complete").items()}
    assert phases == {"bad": "Failed", "slow": "Succeeded", "after-slow": "Succeeded"}
    assert rows(namespace.get("cw", "complete"))["after-bad"] == "Skipped"


def test_on_failure_continue_counts_as_success(namespace):
    copy = "cat $COMPOZY_INPUTS > $COMPOZY_OUTPUTS"
    look = {
        "outputs": "${{ tasks.bad.outputs }}",
        "phase": "${{ tasks.bad.phase }}",
        "code": "${{ tasks.bad.error.code }}",
    }
    namespace.create(
        workflow(
            "tolerant",
            task("bad", "exit 7", retry=retry(2), onFailure="Continue"),
            task("after", copy, dependsOn=["bad"], **{"with": look}),
            outputs={"seen": "${{ tasks.after.outputs }}"},
        )
    )
    ended = namespace.succeeded("tolerant")
    assert ended["status"]["outputs"]["seen"] == {"outputs": {}, "phase": "Failed", "code": "TASK_FAILED"}


def test_what_only_data_can_show_fails_the_task_and_names_the_expression(namespace):
    namespace.create(
        workflow(
            "data",
            task("give", 'echo \'{"n": "text"}\' > $COMPOZY_OUTPUTS'),
            task("take", dependsOn=["give"], **{"with": {"sum": "${{ tasks.give.outputs.n + 1 }}"}}),
            task("miss", dependsOn=["give"], **{"with": {"x": "${{ tasks.give.outputs.missing }}"}}),
            failurePolicy="Complete",
        )
    )
    namespace.failed("data")
    errors = {name: found["status"].get("error") for name, found in namespace.executions("data").items()}
    assert errors["take"]["code"] == errors["miss"]["code"] == "EXPRESSION_ERROR"
    assert "tasks.give.outputs.n + 1" in errors["take"]["message"]
    assert "has(" in errors["miss"]["message"], "suggests a way out"


def test_workflow_outputs_that_cannot_be_evaluated_fail_the_run(namespace):
    namespace.create(workflow("unsaid", task("only"), outputs={"x": "${{ tasks.only.outputs.missing }}"}))
    error = namespace.failed("unsaid")
    assert error["code"] == "EXPRESSION_ERROR"
    assert "outputs.x" in error["message"]


def test_task_defaults_hold_for_tasks_that_say_nothing_else(namespace):
    namespace.create(
        workflow(
            "defaults",
            task("two", "exit 1"),
            task("one", "exit 1", retry={"maxAttempts": 1}),
            taskDefaults={"retry": retry(2)},
            failurePolicy="Complete",
        )
    )
    namespace.failed("defaults")
    attempts = {name: found["status"]["attempt"] for name, found in namespace.executions("defaults").items()}
    assert attempts == {"two": 2, "one": 1}


def test_a_pod_template_reaches_the_pods_the_tasks_own_on_top(namespace):
    own = {
        "metadata": {"labels": {"who": "task"}},
        "spec": {"securityContext": {"runAsUser": 1001}, "volumes": [{"name": "scratch", "emptyDir": {}}]},
    }
    common = {
        "metadata": {"labels": {"who": "workflow", "team": "data"}, "annotations": {"example.com/note": "x"}},
        "spec": {"nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"key": "t", "operator": "Exists"}]},
    }
    plain = task("plain")
    special = task(
        "special", "echo hi > /scratch/x && echo \"{\\\"uid\\\": $(id -u)}\" > $COMPOZY_OUTPUTS",
        {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}, podTemplate=own,
    )  # fmt: skip
    namespace.create(workflow("templated", plain, special, podTemplate=common))
    namespace.succeeded("templated")
    [pod] = namespace.pods("templated", "plain")
    assert {"who": "workflow", "team": "data"}.items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["annotations"]["example.com/note"] == "x"
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert any(toleration.get("key") == "t" for toleration in pod["spec"]["tolerations"])
    [pod] = namespace.pods("templated", "special")
    assert {"who": "task", "team": "data"}.items() <= pod["metadata"]["labels"].items()
    assert namespace.executions("templated")["special"]["status"]["outputs"] == {"uid": 1001}
