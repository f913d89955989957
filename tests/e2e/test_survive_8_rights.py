"""Rights: the operator has those it uses and no others, a viewer changes nothing, a workflow gets nothing by asking."""

import base64
import itertools
import json

import pytest

from harness import audit, cluster, installation
from harness.cluster import task_of
from harness.manifests import HANG, call, handled, pool, retry, task, tool, workflow

# No request shows that they are needed.
UNSEEN = {
    # Whoever makes an object the blocking owner of another must be allowed this.
    ("compozy.dev", "workflows/finalizers", "update"),
    ("compozy.dev", "taskexecutions/finalizers", "update"),
    ("compozy.dev", "tools/finalizers", "update"),
    ("compozy.dev", "executorpools/finalizers", "update"),
    # It is applied, which is a patch, also where there is none yet.
    ("apps", "deployments", "create"),
}

# For what cannot be brought about at will: an object that the watch does not show, one that does not parse, an Event
# that repeats.
RARE = {
    ("compozy.dev", "taskexecutions", "get"),
    ("compozy.dev", "workflows", "get"),
    ("compozy.dev", "taskexecutions/status", "patch"),
    ("compozy.dev", "workflows/status", "patch"),
    ("events.k8s.io", "events", "patch"),
}


def granted():
    """What the rendered roles of the operator allow."""
    rules = []
    for kind, name in (("clusterrole", "operator"), ("role", "operator-lease")):
        space = ("-n", installation.SPACE) if kind == "role" else ()
        rules += cluster.get(*space, kind, f"{installation.RELEASE}-{name}")["rules"]
    return {
        one
        for rule in rules
        for one in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }  # fmt: skip


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_the_operator_uses_all_of_its_rights_and_asks_for_no_more(namespace, host_operator, requests):
    # The lease is made anew; the operator is watching, then goes through all that a run may need.
    cluster.kubectl("-n", installation.SPACE, "delete", "lease", installation.LEASE, "--ignore-not-found")
    host_operator.start(**host_operator.vouching()).leads()
    pods = namespace.watch("pods")
    big = {"blob": "x" * 200_000}
    namespace.create(workflow("large", task("read", **{"with": {"data": "${{ inputs.blob }}"}}), inputs=big))
    namespace.create(workflow("wrong", task("fail", "exit 1", retry=retry(2))))
    namespace.create(workflow("stopped", task("hang", HANG)))
    no_image = {"image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always"}
    namespace.create(workflow("unseen", task("pull", container=no_image, imagePullTimeout="3s")))
    namespace.create(workflow("brief", task("only"), ttl={"afterSucceeded": "1s"}))
    # Nobody serves it.
    namespace.create(tool("absent"))
    namespace.create(workflow("calls", call("ask", "absent")))
    # The operator runs what serves it, and lets that into NATS.
    namespace.create(handled("empty", exec={"command": ["true"]}))
    namespace.wait("--for=condition=Ready", "tool/empty")
    namespace.create(pool("workers", exec={"command": ["true"]}))
    namespace.wait("--for=condition=Ready", "executorpool/workers")
    namespace.create(workflow("served", call("ask", "empty")))
    namespace.succeeded("served")
    namespace.succeeded("large")
    namespace.failed("wrong")
    assert namespace.failed("calls")["details"]["task_error"]["code"] == "TOOL_UNAVAILABLE"
    pods.one(lambda pod: task_of(pod) == "hang" and pod["status"].get("phase") == "Running", what="the pod running")
    # Whose pod is gone unseen is looked for by name.
    host_operator.kill()
    [pod] = namespace.pods("stopped")
    namespace.patch("pod", pod["metadata"]["name"], {"metadata": {"finalizers": None}})
    namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    host_operator.start(host_operator.identity).leads()
    pods.until(
        lambda seen: len([1 for pod in seen.seen().values() if task_of(pod) == "hang"]) == 2, what="a second pod"
    )
    namespace.delete("cw", "stopped", "large", timeout=60)
    namespace.failed("unseen")
    namespace.wait("--for=delete", "cw/brief", timeout=60)
    host_operator.close()

    asked = [one for one in requests.requests() if audit.of(one, host_operator)]
    refused = [one for one in asked if audit.answer(one) == 403]
    assert not refused, audit.counted(refused)
    unused = granted() - UNSEEN - RARE - {audit.what(one) for one in asked}
    assert not unused, f"rights that nothing here used: {sorted(unused)}; used: {audit.counted(asked)}"
    assert "*" not in {part for one in granted() for part in one}


def test_who_has_only_the_viewer_role_reads_and_changes_nothing(namespace):
    namespace.create(workflow("seen", task("only")))
    namespace.succeeded("seen")
    namespace.kubectl(
        "create", "rolebinding", "viewer", f"--clusterrole={installation.RELEASE}-viewer", "--user=viewer"
    )
    as_viewer = "--as=viewer"
    namespace.create(tool("known"))
    namespace.create(pool("known", exec={"command": ["true"]}))
    for kind in ("workflows", "taskexecutions", "tools", "executorpools"):
        assert namespace.kubectl("get", kind, as_viewer, "-o", "name").strip()
    [execution] = namespace.get("te")
    changes = {
        "create": ("create", "-f", "-"),
        "patch": ("patch", "cw", "seen", "--type=merge", "-p", '{"spec":{"cancel":{}}}'),
        "label": ("label", "cw", "seen", "a=b"),
        "status": ("patch", "cw", "seen", "--subresource=status", "--type=merge", "-p", '{"status":{"message":"x"}}'),
        "delete": ("delete", "cw", "seen"),
        "delete all": ("delete", "cw", "--all"),
        "execution": ("patch", "te", execution["metadata"]["name"], "--type=merge", "-p", '{"spec":{"stop":null}}'),
        "delete execution": ("delete", "te", execution["metadata"]["name"]),
        "tool": ("patch", "tool", "known", "--type=merge", "-p", '{"spec":{"timeout":"5s"}}'),
        "delete tool": ("delete", "tool", "known"),
        "pool": ("patch", "executorpool", "known", "--type=merge", "-p", '{"spec":{"slots":2}}'),
        "delete pool": ("delete", "executorpool", "known"),
        "pods": ("get", "pods"),
        "secrets": ("get", "secrets"),
    }
    for what, command in changes.items():
        with pytest.raises(cluster.Refused) as refused:
            namespace.kubectl(*command, as_viewer, stdin=json.dumps(workflow("mine", task("only"))))
        assert "forbidden" in refused.value.stderr.lower(), what
    verbs = ("create", "update", "patch", "delete", "deletecollection")
    kinds = ("workflows", "workflows/status", "taskexecutions", "taskexecutions/status", "tools", "tools/status")
    kinds += ("executorpools", "executorpools/status")
    for verb, kind in itertools.product(verbs, (f"{kind}.compozy.dev" for kind in kinds)):
        with pytest.raises(cluster.Refused):
            namespace.kubectl("auth", "can-i", verb, kind, as_viewer)


POWERS = {
    "host-path": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
    "host-network": {"hostNetwork": True},
    "host-pid": {"hostPID": True},
    "host-ipc": {"hostIPC": True},
    "foreign-account": {"serviceAccountName": "compozy-operator"},
}


def test_a_workflow_that_asks_for_power_over_the_node_or_another_account_runs_nothing(namespace):
    pods = namespace.watch("pods")
    asking = {name: workflow(name, task("only", podTemplate={"spec": spec})) for name, spec in POWERS.items()}
    asking["privileged"] = workflow("privileged", task("only", container={"securityContext": {"privileged": True}}))
    for name, manifest in asking.items():
        try:
            namespace.create(manifest)
        except cluster.Refused as refused:
            assert "unknown field" in refused.stderr, f"{name}: {refused.stderr}"
            continue
        assert namespace.failed(name)["code"] == "INVALID_SPEC", name
    assert not pods.seen()


def test_the_operator_cannot_read_secrets_and_no_event_or_log_shows_one(namespace):
    secret = base64.b64encode(b"do-not-tell").decode()
    namespace.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "data": {"word": secret}})
    account = f"--as=system:serviceaccount:{installation.SPACE}:{installation.RELEASE}-operator"
    with pytest.raises(cluster.Refused):
        namespace.kubectl("get", "secret", "key", account)
    use = {"env": [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "key", "key": "word"}}}]}
    namespace.create(workflow("discreet", task("use", '[ "$WORD" = do-not-tell ]', use)))
    namespace.succeeded("discreet")
    shown = namespace.kubectl("get", "cw,te,events,pods", "-o", "yaml") + installation.operator_log("discreet")
    assert "value: do-not-tell" not in shown and "$WORD" in shown
