"""What a person sees and may do with kubectl."""

import pytest

from harness import cluster
from harness.manifests import HANG, env, task, workflow


def test_kubectl_explain_has_words_for_the_fields():
    assert "The tasks" in cluster.kubectl("explain", "workflow.spec.tasks")
    assert "outbox" in cluster.kubectl("explain", "taskexecution.status.transitions")
    for field in ("workflow.spec.failurePolicy", "workflow.spec.tasks.retry.backoff", "taskexecution.status.phase"):
        described = cluster.kubectl("explain", field).split("DESCRIPTION:", 1)[1].split("FIELDS:")[0]
        assert described.strip() and "<empty>" not in described, field


def test_short_names_and_the_category_find_the_objects(namespace):
    namespace.create(workflow("found", task("only")))
    namespace.succeeded("found")
    for kind in ("cw", "workflows", "workflows.compozy.dev"):
        assert namespace.kubectl("get", kind, "-o", "name").split() == ["workflow.compozy.dev/found"]
    both = namespace.kubectl("get", "compozy", "-o", "name").split()
    assert sorted(name.split("/")[0] for name in both) == ["taskexecution.compozy.dev", "workflow.compozy.dev"]
    assert namespace.kubectl("get", "te", "-o", "name").split() == both[:1] or both[1:]


def test_the_columns_tell_how_it_goes(namespace):
    namespace.create(workflow("columns", task("fine"), task("bad", "exit 1", onFailure="Continue")))
    namespace.succeeded("columns")

    def table(*arguments):
        head, *rows = namespace.kubectl("get", *arguments).splitlines()
        return head.split(), [row.split() for row in rows]

    head, [row] = table("cw")
    assert head == ["NAME", "PHASE", "DONE", "STARTED", "DURATION", "MESSAGE"]
    assert row[:3] == ["columns", "Succeeded", "2/2"]
    head, rows = table("te")
    assert head == ["NAME", "WORKFLOW", "TASK", "PHASE", "ATTEMPT", "EXECUTOR", "AGE", "DURATION"]
    assert sorted(row[1:5] for row in rows) == [
        ["columns", "bad", "Failed", "1"],
        ["columns", "fine", "Succeeded", "1"],
    ]
    assert all(row[5].endswith("-1") for row in rows), "the executor is the attempt's pod"
    head, rows = table("te", "-o", "wide")
    assert head[-1] == "REASON"
    assert "TASK_FAILED" in next(row for row in rows if row[2] == "bad")


def test_kubectl_wait_works_on_runs_and_on_tasks(namespace):
    namespace.create(workflow("waited", task("one")))
    namespace.wait("--for=condition=Finished", "cw/waited")
    namespace.wait("--for=condition=Succeeded", "cw/waited")
    namespace.wait("--for=condition=Finished", "te", "--all")
    ended = namespace.get("cw", "waited")
    assert ended["status"]["observedGeneration"] == ended["metadata"]["generation"]


def test_children_carry_labels_and_owners(namespace):
    run = namespace.create(workflow("owning", task("only")))["metadata"]["uid"]
    namespace.succeeded("owning")
    [pod] = namespace.pods("owning", "only")
    [execution] = namespace.executions("owning").values()
    labels = {"compozy.dev/workflow": "owning", "compozy.dev/workflow-uid": run, "compozy.dev/task": "only"}
    assert labels.items() <= execution["metadata"]["labels"].items()
    assert {**labels, "compozy.dev/attempt": "1"}.items() <= pod["metadata"]["labels"].items()
    assert [owner["uid"] for owner in execution["metadata"]["ownerReferences"]] == [run]
    assert [owner["uid"] for owner in pod["metadata"]["ownerReferences"]] == [execution["metadata"]["uid"]]
    assert pod["metadata"]["name"] == f"{execution['metadata']['name']}-1"
    assert execution["metadata"]["name"].startswith("owning-only-") and len(execution["metadata"]["name"]) <= 58


def test_names_of_the_greatest_length_work(namespace):
    namespace.create(workflow("w" * 63, task("t" * 63), task(f"{'t' * 62}u")))
    namespace.succeeded("w" * 63)


def test_the_executor_pod_is_plain_and_tame(namespace):
    namespace.create(workflow("tame", task("only")))
    namespace.succeeded("tame")
    [pod] = namespace.pods("tame")
    spec = pod["spec"]
    [container] = spec["containers"]
    assert "initContainers" not in spec
    assert (container["name"], container["image"]) == ("main", "busybox:1.36")
    assert (spec["restartPolicy"], spec["enableServiceLinks"]) == ("Never", False)
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["terminationMessagePath"] == "/compozy/outputs.json"
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert "finalizers" not in pod["metadata"], "let go once the outcome is recorded"


CHANGES = {
    "inputs": {"inputs": {"typed": 2}},
    "parallelism": {"parallelism": 3},
    "timeout": {"timeout": "9m"},
    "failurePolicy": {"failurePolicy": "Complete"},
    "taskDefaults": {"taskDefaults": {"timeout": "1m"}},
    "podTemplate": {"podTemplate": {"metadata": {"labels": {"a": "b"}}}},
    "outputs": {"outputs": {"a": "b"}},
    "tasks": {"tasks": [task("only", HANG, **{"with": {"deep": [{"er": 2}]}})]},
}


def test_the_spec_cannot_be_changed(namespace):
    only = task("only", HANG, **{"with": {"deep": [{"er": 1}]}})
    namespace.create(workflow("fixed", only, parallelism=2, inputs={"typed": 1}))
    for field, change in CHANGES.items():
        with pytest.raises(cluster.Refused) as refused:
            namespace.patch("cw", "fixed", {"spec": change})
        assert f"spec.{field} is immutable" in refused.value.stderr
    with pytest.raises(cluster.Refused) as refused:
        namespace.patch("cw", "fixed", {"spec": {"parallelism": None}})
    assert "spec.parallelism is immutable" in refused.value.stderr


def test_what_may_be_changed_can_be(namespace):
    namespace.create(workflow("open", task("only", HANG), suspend=True))
    changes = {"suspend": False, "ttl": {"afterSucceeded": "1h", "afterFailed": "2h"}, "cancel": {"reason": "enough"}}
    for field, change in changes.items():
        namespace.patch("cw", "open", {"spec": {field: change}})
    ended = namespace.finished("open")
    assert ended["status"]["phase"] == "Cancelled", "and the run does not take it for a changed spec"
    namespace.patch("cw", "open", {"spec": {"ttl": None}})


def test_a_final_phase_is_final(namespace):
    namespace.create(workflow("over", task("only")))
    namespace.succeeded("over")
    [execution] = namespace.executions("over").values()
    for kind, name in (("cw", "over"), ("te", execution["metadata"]["name"])):
        with pytest.raises(cluster.Refused) as refused:
            namespace.patch(kind, name, {"status": {"phase": "Running"}}, "--subresource=status")
        assert "a final phase is final" in refused.value.stderr


def test_a_workflow_may_take_a_generated_name(namespace):
    manifest = workflow("x", task("only", container={"env": env(A="b")}))
    manifest["metadata"] = {"generateName": "often-"}
    name = namespace.create(manifest)["metadata"]["name"]
    assert name.startswith("often-")
    namespace.succeeded(name)
