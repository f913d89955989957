"""Prints what a `forEach` of many items costs, beside one of a tenth as many in the same run: the cost of an item has to stay."""

import contextlib
import json
import os
import signal
import sys
import time

from api import Connection
from fake_kubelet import FakeNode
from samples import get, kubectl, scrape, settled_writes

from harness import installation

NAMESPACE = "bench-items"
ITEMS = int(os.environ.get("ITEMS", 10_000))
AT_ONCE = 200
# A slow machine does five items a second.
PATIENCE = ITEMS / 5 + 60


def workflow(items, node):
    """A task for each item, which does nothing."""
    each = {
        "name": "each",
        "forEach": {"items": list(range(items)), "maxParallel": AT_ONCE},
        "container": {"image": "busybox:1.36", "command": ["true"]},
    }
    return {
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": f"items-{items}", "namespace": NAMESPACE},
        "spec": {"parallelism": AT_ONCE, "podTemplate": node.pod_template, "tasks": [each]},
    }


def run(made):
    """Creates a run and waits for its end; how long that took."""
    name, began = made["metadata"]["name"], time.monotonic()
    kubectl("create", "-f", "-", stdin=json.dumps(made))
    kubectl("-n", NAMESPACE, "wait", "--for=condition=Finished", f"cw/{name}", f"--timeout={PATIENCE:.0f}s")
    took = time.monotonic() - began
    status = get("-n", NAMESPACE, "cw", name)["status"]
    assert status["phase"] == "Succeeded", status.get("message")
    return took


def memory():
    return next(value for (name, _), value in scrape().items() if name == "compozy_resident_memory_bytes")


def clean():
    kubectl("-n", NAMESPACE, "delete", "cw", "--all", "--wait=false")
    deadline = time.monotonic() + PATIENCE
    with contextlib.closing(Connection()) as api:
        base = f"/apis/compozy.dev/v1alpha1/namespaces/{NAMESPACE}"
        while (
            api.call("GET", f"{base}/taskexecutions?limit=1")["items"] or api.call("GET", f"{base}/workflows")["items"]
        ):
            assert time.monotonic() < deadline, "waited in vain for the runs to be gone"
            time.sleep(1)


def measure(items, node):
    operator = installation.operator_process()
    writes, used = settled_writes(), installation.processor_seconds(operator)
    took = run(workflow(items, node))
    most = memory()
    spent, used = settled_writes() - writes, installation.processor_seconds(operator) - used
    print(
        f"{items:>7} items   {took:7.1f} s   {items / took:7.1f} items/s   {spent.total() / items:5.2f} API writes an item   "
        f"{used / items * 1000:6.2f} ms of the operator's processor an item   {most / 1e6:6.1f} MB",
        flush=True,
    )
    for (resource, verb), count in sorted(spent.items()):
        print(f"    {count:7} {verb:7} {resource}")
    clean()
    return used / items


def main():
    # An ended bench leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    kubectl("create", "namespace", NAMESPACE)
    try:
        with FakeNode("bench-items") as node:
            few, many = measure(ITEMS // 10, node), measure(ITEMS, node)
        print(f"an item of {ITEMS} costs the operator {many / few:.2f} times as much as one of {ITEMS // 10}")
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


if __name__ == "__main__":
    main()
