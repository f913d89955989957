"""Tasks that cannot begin before the test says so."""

import json

from . import cluster
from .manifests import IMAGE

LABEL = "e2e.compozy.dev/gate"


class Gate:
    """The pods behind it go where a pod with its label is. (A label of the node would do for the scheduler, but a kubelet that
    has not seen it yet refuses the pod.)"""

    def __init__(self, name):
        self.name = name

    def pod_template(self):
        term = {
            "labelSelector": {"matchLabels": {LABEL: self.name}},
            "namespaces": ["default"],
            "topologyKey": "kubernetes.io/hostname",
        }
        return {"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}

    def open(self):
        """Lets the pods that wait be scheduled on a real node."""
        spec = {
            "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "600"]}],
            "terminationGracePeriodSeconds": 0,
        }
        pod = {
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": self.name, "namespace": "default", "labels": {LABEL: self.name}},
        }  # fmt: skip
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(pod))

    def close(self):
        cluster.kubectl("delete", "pod", self.name, "--namespace=default", "--ignore-not-found", "--wait=false")
