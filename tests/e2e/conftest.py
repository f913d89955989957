"""Fixtures: the installed charts, a namespace for each test, a subscriber, an operator that can be killed."""

import contextlib
import fcntl
import os
import re
import uuid
from pathlib import Path

import pytest

from harness import cluster, events, ghost, installation, operator

NAMESPACES = pytest.StashKey[list]()


@contextlib.contextmanager
def _lock(kind):
    """Among the test processes of this machine: one alone (LOCK_EX) or any number together (LOCK_SH)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compozy-operator"
    path = Path(os.environ.get("COMPOZY_CACHE", cache)) / "e2e.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        fcntl.flock(held, kind)
        yield


def pytest_configure(config):
    config.stash[NAMESPACES] = []


def pytest_collection_modifyitems(items):
    """Those that run alone come last: the others then share the machine from beginning to end."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.fixture(scope="session")
def installed():
    """The charts, installed if they were not."""
    with _lock(fcntl.LOCK_EX):
        installation.install()


@pytest.fixture(autouse=True)
def turn(request, installed):
    """A test that stops the operator or NATS runs alone, whatever runs in parallel otherwise."""
    alone = request.node.get_closest_marker("alone")
    with _lock(fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        yield


@pytest.fixture
def namespace(request, turn):
    """A namespace of the test's own. Its end is awaited when the session ends: nothing may be stuck in it."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:40].strip("-")
    with contextlib.closing(cluster.Namespace(f"e2e-{words}-{uuid.uuid4().hex[:5]}")) as made:
        request.config.stash[NAMESPACES].append(made.name)
        yield made


@pytest.fixture(scope="session", autouse=True)
def nothing_stuck(request, installed):
    """After all tests every namespace must be gone: no finalizer may hold one."""
    yield
    with _lock(fcntl.LOCK_SH):
        cluster.wait_gone(request.config.stash[NAMESPACES])


@pytest.fixture
def subscriber(turn):
    """An independent client of NATS with the read-only credentials, listening."""
    with contextlib.closing(events.Subscriber(installation.nats_url(), *installation.secret("subscriber"))) as made:
        yield made


@pytest.fixture
def host_operator(turn, tmp_path):
    """The operator as a process of this machine; the installed one is away meanwhile."""
    installation.scale(installation.OPERATOR, 0)
    try:
        with contextlib.closing(operator.HostOperator(tmp_path)) as made:
            yield made
    finally:
        installation.scale(installation.OPERATOR, 1)


@pytest.fixture
def ghost_node(turn):
    """A second node without a kubelet."""
    with contextlib.closing(ghost.GhostNode(f"ghost-{uuid.uuid4().hex[:5]}")) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what was seen: objects, events, the operator's log."""
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {})
        if namespace := used.get("namespace"):
            report.sections.append((f"cluster: {namespace.name}", _seen(namespace)))
        if host := used.get("host_operator"):
            report.sections.append(("operator's log", host.tail()))
        elif report.when == "call":
            report.sections.append(("operator's log", installation.operator_log()))
    return report


def _seen(namespace):
    looks = [
        ("get", "cw,te,pods,configmaps", "-o", "wide"),
        ("get", "cw,te", "-o", "yaml", "--show-managed-fields=false"),
        ("get", "events", "--sort-by=.metadata.creationTimestamp"),
    ]
    seen = []
    for look in looks:
        try:
            seen.append(f"$ kubectl {' '.join(look)}\n{namespace.kubectl(*look)}")
        except (cluster.Refused, OSError) as error:
            seen.append(str(error))
    return "\n".join(seen)
