"""When nothing happens the operator does nothing, however much lies around."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import api
import pytest

from harness import audit, cluster, installation
from harness.manifests import task, workflow

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]

RUNS = 200
IDLE = 60


def quiet(requests, seconds, timeout):
    """Waits until the operator has written nothing for so long."""
    until, seen, since = time.monotonic() + timeout, -1, time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < until, f"still writes: {audit.counted(requests.requests())}"
        written = sum(map(audit.is_work, requests.requests()))
        if written != seen:
            seen, since = written, time.monotonic()
        time.sleep(0.5)


def create_all(namespace, manifests):
    """Creates workflows over a few connections: kubectl takes its time for so many."""
    path = f"/apis/compozy.dev/v1alpha1/namespaces/{namespace.name}/workflows"

    def create(some):
        with contextlib.closing(api.Connection()) as connection:
            for manifest in some:
                connection.call("POST", path, manifest)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(create, [manifests[start::4] for start in range(4)]))


def all_succeeded(namespace, count, timeout):
    until = time.monotonic() + timeout
    while phases := [run.get("status", {}).get("phase") for run in namespace.get("cw")]:
        if phases == ["Succeeded"] * count:
            return
        assert not {"Failed", "Cancelled", "TimedOut"} & set(phases), phases
        assert time.monotonic() < until, phases
        time.sleep(1)


def test_two_hundred_finished_runs_cost_nothing(namespace, fake_node, requests):
    create_all(
        namespace,
        [workflow(f"run-{number}", task("only", podTemplate=fake_node.pod_template)) for number in range(RUNS)],
    )
    all_succeeded(namespace, RUNS, timeout=90)
    quiet(requests, 5, timeout=60)

    process = installation.operator_process()
    used, before = installation.processor_seconds(process), len(requests.requests())
    time.sleep(IDLE)  # what this is about
    used = installation.processor_seconds(process) - used
    asked = requests.requests()[before:]
    assert not [one for one in asked if audit.is_work(one) or one["verb"] == "list"], audit.counted(asked)
    assert used < IDLE / 20, f"{used:.1f} s of processor time in {IDLE} s of idleness"
    assert cluster.exists("-n", installation.SPACE, installation.OPERATOR)
