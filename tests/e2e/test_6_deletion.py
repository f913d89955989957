"""Deletion: what runs stops, what was there goes, and the name is free again."""

import json
import time

import pytest

from harness import cluster, installation
from harness.events import by_object, names
from harness.manifests import HANG, task, workflow

FIVE = [task(f"hang-{number}", HANG) for number in range(5)]


def count_running(pods):
    return sum(pod["status"].get("phase") == "Running" for pod in pods.objects.values())


def all_running(namespace, pods, count):
    """Waits until so many pods run and the operator has seen it."""
    pods.until(lambda seen: count_running(seen) == count, what=f"{count} pods running")
    namespace.wait("--for=jsonpath={.status.phase}=Running", "te", "--all", timeout=15)


def test_a_workflow_deleted_mid_run_takes_everything_with_it(namespace, subscriber):
    pods = namespace.watch("pods")
    big = {"blob": "x" * 100_000}  # so that there is a ConfigMap too
    with_file = task("hang-file", HANG, **{"with": {"data": "${{ inputs.blob }}"}})
    later = task("later", dependsOn=["hang-0"])
    run = namespace.create(workflow("doomed", *FIVE, with_file, later, inputs=big))["metadata"]["uid"]
    all_running(namespace, pods, 6)
    tasks = {execution["metadata"]["uid"] for execution in namespace.get("te")}

    begin = time.monotonic()
    namespace.kubectl("delete", "cw", "doomed", "--wait=false")
    pods.until(
        lambda seen: all("deletionTimestamp" in pod["metadata"] for pod in seen.objects.values()),
        timeout=10,
        what="every pod told to stop",
    )
    stopped = time.monotonic() - begin
    assert stopped < 5, f"the pods were told to stop only after {stopped:.1f} s"
    namespace.wait("--for=delete", "cw/doomed", timeout=30)
    pods.until(lambda seen: not seen.objects, what="no pod left")
    namespace.wait("--for=delete", "te", "--all", timeout=30)
    namespace.wait("--for=delete", "configmap", "-l", "compozy.dev/workflow-uid", timeout=30)
    left = [found["metadata"]["name"] for found in namespace.get("configmaps")]
    assert left == ["kube-root-ca.crt"]
    assert len(pods.seen()) == 6, "no pod was started after the deletion"

    stored = by_object(subscriber.stored(run, lambda found: names(found).count("cancelled") == 7))
    assert set(stored) == {run, *tasks}
    assert names(stored[run]) == ["started", "cancelled"]
    for uid in tasks:
        assert names(stored[uid]) == ["scheduled", "started", "cancelled"]


def test_deleted_and_created_again_under_the_same_name_at_once(namespace, subscriber):
    pods = namespace.watch("pods")
    first = namespace.create(workflow("again", task("work", HANG)))["metadata"]["uid"]
    all_running(namespace, pods, 1)
    namespace.delete("cw", "again", timeout=30)
    second = namespace.create(workflow("again", task("work", "echo '{\"n\": 2}' > $COMPOZY_OUTPUTS"),
                                       outputs={"n": "${{ tasks.work.outputs.n }}"}))["metadata"]["uid"]  # fmt: skip
    assert first != second
    assert namespace.succeeded("again")["status"]["outputs"] == {"n": 2}
    owners = [pod["metadata"]["labels"]["compozy.dev/workflow-uid"] for pod in pods.seen().values()]
    assert sorted(owners) == sorted([first, second])
    assert "cancelled" in names(subscriber.of(first))
    told = subscriber.until(second, lambda found: found and found[-1].uid == second and found[-1].event == "completed")
    assert "cancelled" not in names(told)


def test_a_finished_workflow_can_be_replaced_by_force(namespace):
    manifest = workflow("fresh", task("work"))
    namespace.create(manifest)
    before = namespace.succeeded("fresh")["metadata"]["uid"]
    namespace.kubectl("replace", "--force", "-f", "-", stdin=json.dumps(manifest), timeout=60)
    assert namespace.succeeded("fresh")["metadata"]["uid"] != before


def test_a_task_execution_deleted_by_hand_is_cancelled_and_fails_the_run(namespace, subscriber):
    pods = namespace.watch("pods")
    run = namespace.create(workflow("holed", task("work", HANG), task("side", "true")))["metadata"]["uid"]
    pod = pods.one(
        lambda pod: pod["metadata"]["labels"]["compozy.dev/task"] == "work" and pod["status"].get("phase") == "Running",
        what="the pod running",
    )
    execution = pod["metadata"]["ownerReferences"][0]
    namespace.kubectl("delete", "te", execution["name"], "--wait=false")
    namespace.failed("holed")
    stored = by_object(subscriber.stored(run, lambda found: "failed" in names(found) and "cancelled" in names(found)))
    assert names(stored[execution["uid"]])[-1] == "cancelled"
    assert len([pod for pod in pods.seen().values() if pod["metadata"]["labels"]["compozy.dev/task"] == "work"]) == 1


def test_a_namespace_deleted_mid_run_goes(namespace):
    pods = namespace.watch("pods")
    namespace.create(workflow("swept", *FIVE))
    all_running(namespace, pods, 5)
    cluster.kubectl("delete", "namespace", namespace.name, "--timeout=60s", timeout=70)


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_helm_uninstall_leaves_nothing_but_the_definitions(namespace):
    pods = namespace.watch("pods")
    namespace.create(workflow("bereaved", *FIVE[:2]))
    namespace.create(workflow("done", task("quick")))
    namespace.succeeded("done")
    pods.until(lambda seen: count_running(seen) == 2, what="two pods running")
    try:
        installation.uninstall()
        # What Kubernetes itself collects, such as EndpointSlices, goes a moment later.
        until = time.monotonic() + 30
        while left := _of_the_release():
            assert time.monotonic() < until, f"left behind: {left}"
            time.sleep(1)
        definitions = {found["metadata"]["name"] for found in cluster.get("crd")}
        assert {"workflows.compozy.dev", "taskexecutions.compozy.dev"} <= definitions
        # Nobody is there to take a finalizer off, and none is needed.
        namespace.delete("cw", "--all", timeout=30)
        namespace.delete("pods", "--all", timeout=60)
        cluster.kubectl("delete", "namespace", namespace.name, "--timeout=60s", timeout=70)
    finally:
        installation.install()


def _kinds(namespaced):
    listed = cluster.kubectl("api-resources", "--verbs=list", f"--namespaced={namespaced}", "-o", "name").split()
    return ",".join(sorted(set(listed) - {"events", "events.events.k8s.io", "componentstatuses"}))


def _of_the_release():
    """Everything that carries the release's label, or lies in its namespace without being every namespace's own."""
    by_label = ("-l", f"app.kubernetes.io/instance={installation.RELEASE}")
    labelled = cluster.kubectl("get", _kinds("false"), *by_label, "-o", "name", timeout=120).split()
    inside = cluster.kubectl("get", _kinds("true"), "-n", installation.SPACE, "-o", "name", timeout=120).split()
    usual = ("configmap/kube-root-ca.crt", "serviceaccount/default", "secret/sh.helm.release.v1.compozy-crds.")
    return [name for name in labelled + inside if not name.startswith(usual)]
