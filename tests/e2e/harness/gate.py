"""A task that cannot begin before the test says so: no node has the label that its pod asks for."""

from . import cluster

LABEL = "e2e.compozy.dev/gate"


class Gate:
    def __init__(self, name):
        self.name = name
        self.nodes = []

    def pod_template(self):
        return {"spec": {"nodeSelector": {LABEL: self.name}}}

    def open(self):
        """Lets the pods that wait be scheduled on the real nodes."""
        for node in cluster.nodes():
            cluster.kubectl("label", "node", node["metadata"]["name"], f"{LABEL}={self.name}", "--overwrite")
            self.nodes.append(node["metadata"]["name"])

    def close(self):
        for node in self.nodes:
            cluster.kubectl("label", "node", node, f"{LABEL}-")
