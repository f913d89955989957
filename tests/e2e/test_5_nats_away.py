"""NATS is away: runs do not notice, and the mirror is whole afterwards."""

import time

import pytest

from harness import installation
from harness.events import by_object, names, whole_run
from harness.manifests import retry, task, workflow

TASKS = (
    task("first", "echo '{\"n\": 1}' > $COMPOZY_OUTPUTS"),
    task("flaky", '[ "$COMPOZY_ATTEMPT" = 2 ]', retry=retry(2), dependsOn=["first"]),
    task("last", "sleep 1", dependsOn=["flaky"]),
)


@pytest.fixture
def installed_nats_away(subscriber):
    """The subscriber knew it before and connects again when it is back."""
    installation.scale(installation.NATS, 0)
    try:
        yield lambda: installation.scale(installation.NATS, 1)
    finally:
        installation.scale(installation.NATS, 1)


@pytest.fixture
def no_nats(subscriber, host_nats):
    """NATS is away until this is called; the subscriber knew it before."""
    host_nats.kill()
    return host_nats.start


def duration(namespace, name):
    """How long a run took from the user's side, in seconds."""
    begin = time.monotonic()
    namespace.create(workflow(name, *TASKS))
    namespace.succeeded(name, timeout=60)
    return time.monotonic() - begin


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_run_without_nats_succeeds_on_time_and_is_told_whole_afterwards(namespace, subscriber, request):
    usual = duration(namespace, "before")
    whole_run(namespace, subscriber, "before")
    bring_back = request.getfixturevalue("installed_nats_away")

    away = duration(namespace, "meanwhile")
    assert away < 2 * usual + 5, f"{away:.1f} s without NATS, {usual:.1f} s with it"

    bring_back()
    objects = by_object(whole_run(namespace, subscriber, "meanwhile", timeout=60))
    executions = namespace.executions("meanwhile")
    assert names(objects[executions["flaky"]["metadata"]["uid"]]) == [
        "scheduled", "started", "failed", "retry_scheduled", "started", "completed",
    ]  # fmt: skip
    assert names(objects[namespace.get("cw", "meanwhile")["metadata"]["uid"]]) == ["started", "completed"]
    # What was stored before is still there, and was not told again.
    whole_run(namespace, subscriber, "before")


@pytest.mark.own_operator
def test_an_operator_that_starts_without_nats_works_and_catches_up(namespace, subscriber, host_operator, no_nats):
    host_operator.start().leads()
    duration(namespace, "orphaned")
    no_nats()
    whole_run(namespace, subscriber, "orphaned", timeout=60)


@pytest.mark.own_operator
def test_a_deleted_workflow_waits_for_nats_and_goes_when_its_events_are_told(
    namespace, subscriber, host_operator, no_nats
):
    host_operator.start().leads()
    run = namespace.create(workflow("leaving", task("only")))["metadata"]["uid"]
    namespace.succeeded("leaving")
    execution = namespace.executions("leaving")["only"]["metadata"]["uid"]
    namespace.kubectl("delete", "cw", "leaving", "--wait=false")
    assert namespace.exists("cw", "leaving"), "held by its finalizer: its events are not told yet"
    no_nats()
    namespace.wait("--for=delete", "cw/leaving", timeout=60)
    stored = by_object(subscriber.stored(run, lambda found: len(found) >= 5))
    assert names(stored[run]) == ["started", "completed"]
    assert names(stored[execution]) == ["scheduled", "started", "completed"]


@pytest.mark.own_operator
def test_a_run_whose_ttl_is_over_waits_for_nats(namespace, subscriber, host_operator, no_nats):
    host_operator.start().leads()
    run = namespace.create(workflow("brief", task("only"), ttl={"afterSucceeded": "0s"}))["metadata"]["uid"]
    namespace.succeeded("brief")
    [execution] = namespace.executions("brief").values()
    assert "deletionTimestamp" not in namespace.get("cw", "brief")["metadata"], "its events are not told yet"
    no_nats()
    namespace.wait("--for=delete", "cw/brief", timeout=90)
    stored = by_object(subscriber.stored(run, lambda found: len(found) >= 5))
    assert names(stored[run]) == ["started", "completed"]
    assert names(stored[execution["metadata"]["uid"]]) == ["scheduled", "started", "completed"]
