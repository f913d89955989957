"""Ends that are decided: cancel, timeouts, failure policies, ttl; suspending; what a workflow may say about its pods."""

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


def test_cancel_as_failure_policy_ends_what_runs(namespace, subscriber):
    run = namespace.create(
        workflow(
            "strict", task("bad", "sleep 2; exit 1"), task("long", HANG), task("after", dependsOn=["long"]),
            failurePolicy="Cancel",
        )
    )["metadata"]["uid"]  # fmt: skip
    error = namespace.failed("strict", timeout=90)
    assert (error["code"], error["details"]["failed_task_id"]) == ("TASK_FAILED", "bad")
    executions = namespace.executions("strict")
    assert {name: found["status"]["phase"] for name, found in executions.items()} == {
        "bad": "Failed", "long": "Cancelled",
    }  # fmt: skip
    assert "bad" in executions["long"]["status"]["message"], "says whose failure ended it"
    told = whole_run(namespace, subscriber, "strict")
    assert names(by_object(told)[run]) == ["started", "failed"]
    assert told[-1].uid == run, "the run's end comes after the last of its tasks"


def running(pod):
    return pod["status"].get("phase") == "Running"


def test_a_suspended_run_starts_nothing_until_it_is_resumed(namespace, subscriber):
    pods = namespace.watch("pods")
    run = namespace.create(workflow("paused", task("first", "sleep 4"), task("second", dependsOn=["first"])))
    pods.one(running, what="the first task running")
    namespace.patch("cw", "paused", {"spec": {"suspend": True}})
    namespace.wait("--for=jsonpath={.status.phase}=Suspended", "cw/paused")
    # What runs goes on to its end, and nothing follows it.
    namespace.wait("--for=condition=Succeeded", "te", "-l", "compozy.dev/task=first")
    namespace.wait("--for=jsonpath={.status.done}=1/2", "cw/paused")
    assert namespace.get("cw", "paused")["status"]["phase"] == "Suspended"
    assert len(pods.seen()) == 1
    namespace.patch("cw", "paused", {"spec": {"suspend": False}})
    namespace.succeeded("paused")
    told = by_object(whole_run(namespace, subscriber, "paused"))[run["metadata"]["uid"]]
    assert names(told) == ["started", "waiting_started", "waiting_ended", "completed"]
    assert told[1].payload["wait_reason"] == "suspended"
    assert told[2].payload["resume_data"]["suspended_ms"] > 0


def test_a_run_created_suspended_begins_and_waits(namespace, subscriber):
    pods = namespace.watch("pods")
    run = namespace.create(workflow("later", task("only"), suspend=True))["metadata"]["uid"]
    namespace.wait("--for=jsonpath={.status.phase}=Suspended", "cw/later")
    assert not pods.seen()
    assert not namespace.executions("later")
    namespace.patch("cw", "later", {"spec": {"suspend": None}})
    namespace.succeeded("later")
    told = by_object(whole_run(namespace, subscriber, "later"))[run]
    assert names(told) == ["started", "waiting_started", "waiting_ended", "completed"]


def test_no_retry_starts_while_the_run_is_suspended(namespace):
    pods = namespace.watch("pods")
    fails_once = '[ "$COMPOZY_ATTEMPT" != 1 ] || { sleep 4; exit 1; }'
    namespace.create(workflow("patient", task("flaky", fails_once, retry=retry(2), deadline="5m")))
    pods.one(running, what="the first attempt running")
    namespace.patch("cw", "patient", {"spec": {"suspend": True}})
    namespace.wait("--for=jsonpath={.status.phase}=Retrying", "te", "--all")
    [execution] = namespace.executions("patient").values()
    assert execution["status"]["suspension"]["since"], "its deadline and its pause stand still"
    assert namespace.get("cw", "patient")["status"]["phase"] == "Suspended"
    assert len(pods.seen()) == 1
    namespace.patch("cw", "patient", {"spec": {"suspend": False}})
    namespace.succeeded("patient")
    assert len(pods.seen()) == 2


def test_a_suspended_run_can_be_cancelled(namespace, subscriber):
    pods = namespace.watch("pods")
    run = namespace.create(workflow("given-up", task("now", HANG), task("later", dependsOn=["now"])))["metadata"]["uid"]
    pods.one(running, what="the task running")
    namespace.patch("cw", "given-up", {"spec": {"suspend": True}})
    namespace.wait("--for=jsonpath={.status.phase}=Suspended", "cw/given-up")
    namespace.patch("cw", "given-up", {"spec": {"cancel": {"reason": "not needed"}}})
    assert namespace.finished("given-up")["status"]["phase"] == "Cancelled"
    told = by_object(whole_run(namespace, subscriber, "given-up"))[run]
    assert names(told) == ["started", "waiting_started", "cancelled"]


def test_a_finished_run_goes_after_its_ttl_with_all_that_belongs_to_it(namespace, subscriber):
    executions, pods = namespace.watch("te"), namespace.watch("pods")
    run = namespace.create(workflow("brief", task("only"), ttl={"afterSucceeded": "5s"}))["metadata"]["uid"]
    namespace.succeeded("brief")
    namespace.wait("--for=delete", "cw/brief")
    for children in (executions, pods):
        children.until(lambda seen: seen.history and not seen.objects, what="everything gone", timeout=60)
    [execution] = executions.seen()
    told = by_object(subscriber.stored(run, lambda found: len(found) >= 5))
    assert names(told[run]) == ["started", "completed"]
    assert names(told[execution]) == ["scheduled", "started", "completed"]


def test_the_ttl_may_be_set_later_and_has_two_parts(namespace):
    namespace.create(workflow("kept", task("only", "exit 1"), ttl={"afterSucceeded": "0s"}))
    namespace.failed("kept")
    namespace.patch("cw", "kept", {"spec": {"ttl": {"afterFailed": "0s"}}})
    namespace.wait("--for=delete", "cw/kept")


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
