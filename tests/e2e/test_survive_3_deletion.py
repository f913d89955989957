"""Somebody deletes what is the operator's, or takes its finalizers: nothing is stuck, the documented thing happens."""

import pytest

from harness import cluster
from harness.cluster import attempt_of
from harness.events import by_object, names, whole_run
from harness.manifests import HANG, HANG_ONCE, task, workflow

pytestmark = pytest.mark.own_operator

NOBODY = {"nats_url": "nats://127.0.0.1:1"}


def runs(pod):
    return pod["status"].get("phase") == "Running"


def test_a_pod_that_goes_unseen_without_its_finalizer_is_tried_again(namespace, subscriber, host_operator):
    pods = namespace.watch("pods")
    host_operator.start().leads()
    run = namespace.create(workflow("robbed", task("work", HANG_ONCE), task("then", dependsOn=["work"])))
    pod = pods.one(runs, what="the pod running")
    namespace.wait("--for=jsonpath={.status.phase}=Running", "te", "--all", timeout=15)
    host_operator.kill()
    namespace.patch("pod", pod["metadata"]["name"], {"metadata": {"finalizers": None}})
    namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    host_operator.start()

    namespace.succeeded("robbed")
    [first] = [record for record in namespace.executions("robbed")["work"]["status"]["attempts"]
               if record["number"] == 1]  # fmt: skip
    assert first["class"] == "Infrastructure"
    attempts = [attempt_of(found) for found in pods.seen().values()
                if found["metadata"]["labels"]["compozy.dev/task"] == "work"]  # fmt: skip
    assert sorted(attempts) == [1, 2]
    objects = by_object(whole_run(namespace, subscriber, "robbed"))
    work = objects[namespace.executions("robbed")["work"]["metadata"]["uid"]]
    assert names(work) == ["scheduled", "started", "failed", "retry_scheduled", "started", "completed"]
    assert names(objects[run["metadata"]["uid"]]) == ["started", "completed"]


def test_all_task_executions_deleted_by_hand_end_the_run(namespace, subscriber, host_operator):
    pods = namespace.watch("pods")
    host_operator.start().leads()
    run = namespace.create(workflow("emptied", task("done"), task("work", HANG, dependsOn=["done"])))["metadata"]["uid"]
    pods.one(lambda pod: runs(pod) and cluster.task_of(pod) == "work", what="the second pod running")
    uids = {found["metadata"]["uid"] for found in namespace.get("te")}
    namespace.kubectl("delete", "te", "--all", "--wait=false")
    namespace.failed("emptied")
    namespace.wait("--for=delete", "te", "--all", timeout=30)
    assert [cluster.task_of(pod) for pod in pods.seen().values()] == ["done", "work"], "what was done is not done again"
    stored = by_object(subscriber.stored(run, lambda found: "failed" in names(found) and "cancelled" in names(found)))
    assert set(stored) == {run, *uids}
    assert names(stored[run]) == ["started", "failed"]


def test_a_namespace_deleted_with_nats_away_goes_after_the_grace(namespace, host_operator):
    pods = namespace.watch("pods")
    host_operator.start(**NOBODY, events_deletion_grace="5s").leads()
    namespace.create(workflow("swept", *[task(f"hang-{number}", HANG) for number in range(3)]))
    namespace.create(workflow("done", task("only")))
    namespace.succeeded("done")
    pods.until(lambda seen: sum(map(runs, seen.objects.values())) == 3, what="three pods running")
    assert host_operator.metric("compozy_events_pending") > 0
    cluster.kubectl("delete", "namespace", namespace.name, "--timeout=90s", timeout=100)
    assert host_operator.metric("compozy_events_let_go_total") >= 6, "two runs and four tasks went with events untold"


def test_a_workflow_let_go_untold_says_so(namespace, host_operator):
    host_operator.start(**NOBODY, events_deletion_grace="1s").leads()
    namespace.create(workflow("mute", task("only")))
    namespace.succeeded("mute")
    namespace.delete("cw", "mute", timeout=60)
    warnings = namespace.get("events", "--field-selector=type=Warning,involvedObject.kind=Workflow")
    assert warnings, "a person can see what was lost"
    assert host_operator.metric("compozy_events_let_go_total") >= 2
