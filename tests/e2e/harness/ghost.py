"""A second node without a kubelet: the test writes what a kubelet would have reported of its pods."""

import json
from datetime import UTC, datetime

from . import cluster

LABEL = "e2e.compozy.dev/home"


class GhostNode:
    """A Node object, ready until its heartbeat grows old (40 s), that takes only pods that ask for it."""

    def __init__(self, name):
        self.name = name
        self.relabelled = []
        # Its own taint, from the beginning, keeps away the pods of the tests that run meanwhile.
        spec = {"taints": [{"key": LABEL, "value": name, "effect": "NoSchedule"}]}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps({
            "apiVersion": "v1", "kind": "Node", "spec": spec,
            "metadata": {"name": name, "labels": {LABEL: name, "kubernetes.io/os": "linux"}},
        }))  # fmt: skip
        self.heartbeat()
        # The admission of a new node adds a taint; the node controller would take that off within seconds.
        cluster.kubectl("patch", "node", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def selector(self):
        """A podTemplate that lets pods run here only."""
        return {"spec": {"nodeSelector": {LABEL: self.name}, "tolerations": [{"key": LABEL, "value": self.name}]}}

    def heartbeat(self):
        """Reports the node ready, with room for pods."""
        room = {"cpu": "4", "memory": "8Gi", "pods": "50"}
        ready = {
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "written by a test",
            "lastHeartbeatTime": _now(), "lastTransitionTime": _now(),
        }  # fmt: skip
        self._status("node", self.name, {"capacity": room, "allocatable": room, "conditions": [ready]})

    @staticmethod
    def _status(kind, name, status, *where):
        patch = json.dumps({"status": status})
        cluster.kubectl(*where, "patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)

    def _report(self, pod, phase, state, **more):
        container = pod["spec"]["containers"][0]
        status = {
            "phase": phase, "startTime": _now(), **more,
            "containerStatuses": [{
                "name": container["name"], "image": container["image"], "imageID": "", "ready": phase == "Running",
                "restartCount": 0, "started": phase == "Running", "state": state,
            }],
        }  # fmt: skip
        self._status("pod", pod["metadata"]["name"], status, "-n", pod["metadata"]["namespace"])

    def run(self, pod):
        """Reports that the pod's container runs."""
        self._report(pod, "Running", {"running": {"startedAt": _now()}})

    def succeed(self, pod, outputs):
        """Reports that the pod's container ended well, with these outputs."""
        ended = {"exitCode": 0, "reason": "Completed", "startedAt": _now(), "finishedAt": _now()}
        self._report(pod, "Succeeded", {"terminated": {**ended, "message": json.dumps(outputs)}})

    def evict(self, pod):
        """Reports what a kubelet does to a pod when its node runs out of memory."""
        ended = {"exitCode": 137, "reason": "Error", "startedAt": _now(), "finishedAt": _now()}
        disruption = {
            "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
            "message": "The node was low on resource: memory.", "lastTransitionTime": _now(),
        }  # fmt: skip
        self._report(
            pod, "Failed", {"terminated": ended},
            reason="Evicted", message="The node was low on resource: memory.", conditions=[disruption],
        )  # fmt: skip

    def vanish(self):
        """Deletes the Node, and lets its label move to the real nodes so that later pods find a place."""
        cluster.kubectl("delete", "node", self.name, "--ignore-not-found")
        for node in cluster.nodes():
            cluster.kubectl("label", "node", node["metadata"]["name"], f"{LABEL}={self.name}", "--overwrite")
            self.relabelled.append(node["metadata"]["name"])

    def close(self):
        """Takes away what is left: the pods that no kubelet will ever end, the Node, the labels."""
        for pod in cluster.get("pods", "--all-namespaces", f"--field-selector=spec.nodeName={self.name}"):
            where = ("-n", pod["metadata"]["namespace"], pod["metadata"]["name"])
            cluster.kubectl(
                "delete", "pod", *where, "--grace-period=0", "--force", "--wait=false", "--ignore-not-found"
            )
        cluster.kubectl("delete", "node", self.name, "--ignore-not-found")
        for node in self.relabelled:
            cluster.kubectl("label", "node", node, f"{LABEL}-")


def _now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
