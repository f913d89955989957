"""Many runs at once on the second node, whose pods end by themselves."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

from api import Connection

CONNECTIONS = 4


def workflow(name, node, tasks, chain=1, parallelism=100):
    """So many tasks that do nothing, in chains of this length."""
    container = {"image": "busybox:1.36", "command": ["true"]}
    return {
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {
            "parallelism": parallelism,
            "podTemplate": node.pod_template,
            "tasks": [
                {"name": f"t{number}", "container": container,
                 **({"dependsOn": [f"t{number - 1}"]} if number % chain else {})}
                for number in range(tasks)
            ],
        },
    }  # fmt: skip


def path(namespace, kind="workflows"):
    return f"/apis/compozy.dev/v1alpha1/namespaces/{namespace}/{kind}"


def create(namespace, manifests):
    """Creates workflows over a few connections."""

    def some(start):
        with contextlib.closing(Connection()) as api:
            for manifest in manifests[start::CONNECTIONS]:
                api.call("POST", path(namespace), manifest)

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(some, range(CONNECTIONS)))


def listed(namespace, kind="workflows"):
    with contextlib.closing(Connection()) as api:
        return api.call("GET", path(namespace, kind))["items"]


def phases(namespace):
    return [run.get("status", {}).get("phase", "Pending") for run in listed(namespace)]


def is_under_way(namespace):
    return any(phase in ("Pending", "Running") for phase in phases(namespace))


def wait_over(namespace, timeout, operator=None):
    """Waits until no run is under way; whether that came to be. The operator, if given, must live all the time."""
    until = time.monotonic() + timeout
    while is_under_way(namespace):
        assert operator is None or operator.process.poll() is None, f"the operator ended: {operator.tail()}"
        if time.monotonic() > until:
            return False
        time.sleep(1)
    return True
