"""Rights: the operator has those it uses and no others, a viewer changes nothing, a workflow gets nothing by asking."""

import base64
import itertools
import json

import pytest

from harness import cluster, installation
from harness.manifests import task, workflow


def test_who_has_only_the_viewer_role_reads_and_changes_nothing(namespace):
    namespace.create(workflow("seen", task("only")))
    namespace.succeeded("seen")
    namespace.kubectl(
        "create", "rolebinding", "viewer", f"--clusterrole={installation.RELEASE}-viewer", "--user=viewer"
    )
    as_viewer = "--as=viewer"
    for kind in ("workflows", "taskexecutions"):
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
        "pods": ("get", "pods"),
        "secrets": ("get", "secrets"),
    }
    for what, command in changes.items():
        with pytest.raises(cluster.Refused) as refused:
            namespace.kubectl(*command, as_viewer, stdin=json.dumps(workflow("mine", task("only"))))
        assert "forbidden" in refused.value.stderr.lower(), what
    verbs = ("create", "update", "patch", "delete", "deletecollection")
    kinds = ("workflows", "workflows/status", "taskexecutions", "taskexecutions/status")
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
