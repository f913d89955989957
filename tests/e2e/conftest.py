"""Fixtures: the installed charts, a namespace for each test, a subscriber, an operator that can be killed."""

import contextlib
import fcntl
import os
import re
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from fake_kubelet import FakeNode

from harness import audit, cluster, events, gate, ghost, installation, nats_server, operator, pool_worker, tool_server

NAMESPACES = pytest.StashKey[list]()


@contextlib.contextmanager
def _lock_file():
    """Held among the test processes of this machine by one alone (LOCK_EX) or by any number together (LOCK_SH)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compozy-operator"
    path = Path(os.environ.get("COMPOZY_CACHE", cache)) / "e2e.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        yield held


def _see_to_operator(there):
    if installation.operator_is_there() != there:
        installation.scale(installation.OPERATOR, int(there))


@contextlib.contextmanager
def _together(with_operator):
    """Any number of tests at once, all of them with the installed operator or all of them without."""
    with _lock_file() as held:
        while True:
            fcntl.flock(held, fcntl.LOCK_SH)
            if installation.operator_is_there() == with_operator:
                break
            fcntl.flock(held, fcntl.LOCK_UN)
            # Whoever comes first when nobody is left who wants it otherwise. Others must not queue for having it alone.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _see_to_operator(with_operator)
                continue
            time.sleep(0.5)
        yield


@contextlib.contextmanager
def _alone():
    with _lock_file() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        _see_to_operator(True)
        yield


def pytest_configure(config):
    config.stash[NAMESPACES] = []


def pytest_sessionstart(session):
    """Installs the charts if they are not; once, before the processes that share the tests are started."""
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        try:
            installation.install()
            operator.allow_leases()
        except cluster.Refused as refused:
            pytest.exit(f"no installation to test: {refused}", returncode=3)


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        operator.forbid_leases()


def _has_own_operator(node):
    return node.get_closest_marker("own_operator") is not None


def _is_alone(node):
    return node.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items):
    """Those that run alone come last: the others then share the machine from beginning to end."""
    items.sort(key=lambda item: (_is_alone(item), _has_own_operator(item)))


@pytest.fixture(autouse=True)
def turn(request):
    """Whose turn it is: a test that disturbs the installation runs alone, whatever runs in parallel otherwise."""
    with _alone() if _is_alone(request.node) else _together(with_operator=not _has_own_operator(request.node)):
        yield


@pytest.fixture
def namespace(request, turn):
    """A namespace of the test's own. Its end is awaited when the session ends: nothing may be stuck in it."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:40].strip("-")
    with contextlib.closing(cluster.Namespace(f"e2e-{words}-{uuid.uuid4().hex[:5]}")) as made:
        request.config.stash[NAMESPACES].append(made.name)
        yield made


@pytest.fixture(scope="session", autouse=True)
def nothing_stuck(request):
    """After all tests every namespace must be gone: no finalizer may hold one."""
    yield
    with _together(with_operator=True):
        cluster.wait_gone(request.config.stash[NAMESPACES])


@pytest.fixture
def subscriber(request, turn):
    """An independent client of NATS with the read-only credentials, listening; of the test's own NATS if it has one."""
    if _has_own_operator(request.node):
        made = request.getfixturevalue("host_nats").subscriber()
    else:
        made = events.Subscriber(installation.nats_url(), *installation.secret("subscriber"))
    with contextlib.closing(made):
        yield made


@pytest.fixture
def serve(namespace):
    """Serves tools of the test's namespace, as `serve(name, answer)` has it, until the test ends."""
    with contextlib.ExitStack() as stack:

        def begin(name, answer):
            user = installation.secret("tools")
            server = tool_server.ToolServer(installation.nats_url(), *user, namespace.name, name, answer)
            stack.callback(server.close)
            return server

        yield begin


@pytest.fixture
def worker(namespace, tmp_path):
    """Starts workers on this machine for pools of the test's namespace, as `worker(pool, *handler, name=...)`."""
    with contextlib.ExitStack() as stack:

        def begin(pool, *handler, **options):
            made = pool_worker.PoolWorker(tmp_path / "workers", namespace.name, pool, *handler, **options)
            stack.callback(made.close)
            return made

        yield begin


@pytest.fixture
def host_flags(request, turn):
    """What the operator on this machine is started with: as the installed one, or for the test's namespace alone."""
    if not _has_own_operator(request.node):
        return {}
    namespace, host_nats = map(request.getfixturevalue, ("namespace", "host_nats"))
    return {**operator.for_one_namespace(namespace.name), **host_nats.flags()}


@pytest.fixture
def host_operator(request, host_flags, tmp_path):
    """The operator as a process of this machine; the installed one is away meanwhile."""
    alone = _is_alone(request.node)
    assert alone or host_flags, "mark the test as one that runs alone or has an operator of its own"
    if alone:
        installation.scale(installation.OPERATOR, 0)
    try:
        with contextlib.closing(operator.HostOperator(tmp_path, **host_flags)) as made:
            yield made
    finally:
        if alone:
            installation.scale(installation.OPERATOR, 1)


@pytest.fixture
def standby(host_operator, host_flags, tmp_path):
    """A second operator on this machine, beside the first."""
    with contextlib.closing(operator.HostOperator(tmp_path / "standby", **host_flags)) as made:
        yield made


@pytest.fixture
def host_nats(turn, tmp_path):
    """A NATS server on this machine, for operators on this machine."""
    with contextlib.closing(nats_server.HostNats(tmp_path / "nats")) as made:
        yield made


@pytest.fixture
def fake_node(turn):
    """A second node whose pods end well by themselves, without a container: many pods cost little."""
    with FakeNode(f"fake-{uuid.uuid4().hex[:5]}") as made:
        yield made


@pytest.fixture
def closed_gate(turn):
    """Holds back the tasks that have its pod template, until it is opened."""
    with contextlib.closing(gate.Gate(f"gate-{uuid.uuid4().hex[:5]}")) as made:
        yield made


@pytest.fixture
def requests(request, turn):
    """What the operator asks of the API server from now on; in the test's namespace, if it is not the only one."""
    return audit.Audit(request.getfixturevalue("namespace").name if _has_own_operator(request.node) else None)


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
            for look in LOOKS:
                report.sections.append((f"kubectl {' '.join(look)}", _seen(lambda look=look: namespace.kubectl(*look))))
        log = used["host_operator"].tail if "host_operator" in used else installation.operator_log
        about = namespace.name if namespace else ""
        report.sections.append(("operator's log", _seen(lambda: log(about))))
    return report


LOOKS = (
    ("get", "cw,te,tools,executorpools,deployments,pods,configmaps", "-o", "wide"),
    ("get", "cw,te,tools,executorpools", "-o", "yaml"),
    ("get", "events", "--sort-by=.metadata.creationTimestamp"),
)


def _seen(look):
    """What there is to see, or why it cannot be seen: a report must not fail."""
    try:
        return look()
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return str(error)
