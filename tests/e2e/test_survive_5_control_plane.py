"""The API server is away, etcd forgets, connections break: no task runs twice, nothing waits for a next time."""

import contextlib
import time
from urllib.parse import urlsplit

import pytest

from harness import audit, cluster, control_plane, installation
from harness.events import names, whole_run
from harness.manifests import task, workflow
from harness.proxy import Proxy

pytestmark = pytest.mark.timeout(300)


def steps(count, **fields):
    return [
        task(f"s-{step}", "sleep 2", **fields, **({"dependsOn": [f"s-{step - 1}"]} if step else {}))
        for step in range(count)
    ]  # fmt: skip


def step_begins(namespace, step):
    namespace.wait("--for=create", "pod", "-l", f"compozy.dev/task=s-{step}", timeout=60)


def assert_each_pod_was_made_once(namespace, requests, run, count):
    """Each task has one pod, and no pod was made twice. A creation whose answer got lost is not in the audit log."""
    assert sorted(map(cluster.task_of, namespace.pods(run))) == sorted(f"s-{step}" for step in range(count))
    made = audit.pods_created(requests.requests())
    assert set(made.values()) == {1}, made


@pytest.mark.alone
def test_the_api_server_away_for_twenty_seconds_and_etcd_compacted(namespace, subscriber, requests):
    namespace.create(workflow("patient", *steps(6)))
    step_begins(namespace, 1)
    with control_plane.no_api_server():
        control_plane.compact_etcd()
        time.sleep(20)  # what this is about
    namespace.succeeded("patient", timeout=120)
    assert_each_pod_was_made_once(namespace, requests, "patient", 6)
    assert {record["status"]["attempt"] for record in namespace.executions("patient").values()} == {1}
    assert names(whole_run(namespace, subscriber, "patient", timeout=60)).count("completed") == 7
    cluster.kubectl("-n", installation.SPACE, "rollout", "status", installation.OPERATOR, "--timeout=60s", timeout=70)


@pytest.mark.own_operator
def test_connections_that_break_again_and_again_cost_no_step(namespace, subscriber, host_operator, fake_node, requests):
    server = urlsplit(host_operator.server)
    with contextlib.closing(Proxy(server.hostname, server.port)) as way:
        host_operator.reach_the_api_server_at(f"https://127.0.0.1:{way.port}")
        # The lease must outlive the breaks: this is not about losing it.
        host_operator.start(lease_duration="15s").leads()
        fake_node.seconds = 1
        pods = namespace.watch("pods")
        namespace.create(workflow("broken", *steps(12, podTemplate=fake_node.pod_template)))
        for step in range(1, 11, 2):
            pods.one(lambda pod, step=step: cluster.task_of(pod) == f"s-{step}", what=f"step {step}", timeout=60)
            assert way.cut(), "there were connections to break"
        namespace.succeeded("broken", timeout=60)
        assert_each_pod_was_made_once(namespace, requests, "broken", 12)
        whole_run(namespace, subscriber, "broken", timeout=60)
        host_operator.close()
