"""The operator dies without a word, at any moment: nothing runs twice, nothing is told twice, nothing is lost."""

import os
import signal
import time

import pytest

from harness import cluster, installation
from harness.cluster import finished_at, task_of
from harness.events import by_object, names, whole_run
from harness.manifests import HANG, task, workflow

own_operator = pytest.mark.own_operator


@own_operator
def test_a_pod_that_finished_and_was_deleted_meanwhile_is_recognised(namespace, subscriber, host_operator):
    pods = namespace.watch("pods")
    host_operator.start().leads()
    once = task("once", "sleep 2; echo '{\"n\": 5}' > $COMPOZY_OUTPUTS")
    failing = task("failing", "sleep 2; echo gone wrong; exit 3", onFailure="Continue")
    then = task("then", "true", dependsOn=["once", "failing"])
    namespace.create(workflow("recognised", once, failing, then, outputs={"n": "${{ tasks.once.outputs.n }}"}))
    pods.until(lambda seen: len(seen.objects) == 2, what="both pods")
    host_operator.kill()

    def ended(pod):
        return pod["status"].get("phase") in ("Succeeded", "Failed")

    pods.until(lambda seen: all(map(ended, seen.objects.values())), what="both pods ended")
    # Node and API server have clocks of their own: that a failure came before the deletion is believed after 2 s only.
    time.sleep(max(0, max(map(finished_at, pods.objects.values())) + 3 - time.time()))
    namespace.kubectl("delete", "pods", "--all", "--wait=false")
    host_operator.start()

    assert namespace.succeeded("recognised")["status"]["outputs"] == {"n": 5}
    executions = namespace.executions("recognised")
    assert executions["failing"]["status"]["error"]["code"] == "TASK_FAILED"
    assert "gone wrong" in executions["failing"]["status"]["error"]["message"]
    assert sorted(task_of(pod) for pod in pods.seen().values()) == ["failing", "once", "then"]
    namespace.wait("--for=delete", "pod", "-l", "compozy.dev/task in (once, failing)", timeout=15)
    objects = by_object(whole_run(namespace, subscriber, "recognised"))
    assert names(objects[executions["once"]["metadata"]["uid"]]) == ["scheduled", "started", "completed"]
    assert names(objects[executions["failing"]["metadata"]["uid"]]) == ["scheduled", "started", "failed"]


@own_operator
def test_a_run_whose_spec_is_not_the_one_that_it_began_with_fails(namespace, host_operator):
    # The definitions refuse every change of a spec, so the fingerprint is changed instead.
    host_operator.start().leads()
    pods = namespace.watch("pods")
    namespace.create(workflow("changed", task("first", HANG), task("second", dependsOn=["first"])))
    pods.one(lambda pod: pod["status"].get("phase") == "Running", what="the first task running")
    host_operator.kill()
    namespace.patch("cw", "changed", {"status": {"specHash": "0123456789abcdef"}}, "--subresource=status")
    host_operator.start()
    status = namespace.finished("changed", timeout=45)["status"]
    assert (status["phase"], status["error"]["code"]) == ("Failed", "INVALID_SPEC")
    pods.until(lambda seen: all("deletionTimestamp" in pod["metadata"] for pod in seen.objects.values()))
    assert {task_of(pod) for pod in pods.seen().values()} == {"first"}


@own_operator
def test_a_workflow_made_and_one_deleted_while_no_operator_runs(namespace, subscriber, host_operator):
    host_operator.start().leads()
    pods = namespace.watch("pods")
    namespace.create(workflow("doomed", task("hang", HANG)))
    pods.one(lambda pod: pod["status"].get("phase") == "Running", what="the doomed pod running")
    host_operator.kill()
    namespace.kubectl("delete", "cw", "doomed", "--wait=false")
    namespace.create(workflow("waiting", task("quick")))
    host_operator.start()
    namespace.succeeded("waiting")
    namespace.wait("--for=delete", "cw/doomed", timeout=30)
    pods.until(lambda seen: all(task_of(pod) == "quick" for pod in seen.objects.values()), what="no doomed pod left")


@pytest.mark.alone
def test_the_installed_operator_is_killed_and_comes_back(namespace, subscriber):
    pods = namespace.watch("pods")
    steps = [task(f"s-{step}", "sleep 1", **({"dependsOn": [f"s-{step - 1}"]} if step else {})) for step in range(4)]
    namespace.create(workflow("steady", *steps))
    pods.one(lambda pod: task_of(pod) == "s-1", what="the second step")
    os.kill(installation.operator_process(), signal.SIGKILL)

    namespace.succeeded("steady", timeout=60)
    assert len(pods.seen()) == 4
    whole_run(namespace, subscriber, "steady")
    cluster.kubectl("-n", installation.SPACE, "rollout", "status", installation.OPERATOR, "--timeout=60s", timeout=70)
