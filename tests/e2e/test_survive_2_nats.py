"""NATS loses what it had, has no room or is slow: runs do not notice, and the stream is whole afterwards."""

import contextlib
import time

import nats
import pytest
from nats.js.api import StorageType, StreamConfig

from harness import nats_server
from harness.events import STREAM, SUBJECTS, names, whole_run
from harness.manifests import task, workflow
from harness.proxy import Proxy

pytestmark = pytest.mark.own_operator


def steps(count):
    """A chain of tasks of a second."""
    return [task(f"s-{step}", "sleep 1", **({"dependsOn": [f"s-{step - 1}"]} if step else {})) for step in range(count)]


def step_begins(pods, step):
    pods.one(lambda pod: pod["metadata"]["labels"]["compozy.dev/task"] == f"s-{step}", what=f"step {step}", timeout=60)


def run_with_a_loss(namespace, subscriber, host_operator, host_nats, lose):
    """A run before the loss and one in the middle of which it happens: both are in the stream afterwards."""
    pods = namespace.watch("pods")
    host_operator.start().leads()
    namespace.create(workflow("before", task("only")))
    namespace.succeeded("before")
    whole_run(namespace, subscriber, "before")
    namespace.create(workflow("during", *steps(4)))
    step_begins(pods, 2)
    lose()
    namespace.succeeded("during")
    told = whole_run(namespace, subscriber, "during", timeout=60)
    assert names(told)[-1] == "completed" and told[-1].entity == "workflow", "its end comes last here too"
    whole_run(namespace, subscriber, "before", timeout=60)
    assert host_operator.metric("compozy_events_streams_lost_total") >= 1
    assert host_operator.metric("compozy_events_lost_total") == 0, "the objects still hold all of it"
    assert len(pods.seen()) == 5


def test_a_server_that_comes_back_with_an_empty_store_gets_all_again(namespace, subscriber, host_operator, host_nats):
    def lose():
        host_nats.lose_everything()
        host_nats.start()

    run_with_a_loss(namespace, subscriber, host_operator, host_nats, lose)


def test_a_stream_that_somebody_deletes_is_made_and_filled_again(namespace, subscriber, host_operator, host_nats):
    def lose():
        subscriber.ask(lambda jetstream: jetstream.delete_stream(STREAM))

    run_with_a_loss(namespace, subscriber, host_operator, host_nats, lose)


def test_a_server_without_room_gets_the_events_when_it_has_some(namespace, host_operator, tmp_path):
    with (
        contextlib.closing(nats_server.HostNats(tmp_path / "small", store="1MB")) as small,
        contextlib.closing(small.subscriber()) as subscriber,
    ):
        events = StreamConfig(name=STREAM, subjects=[SUBJECTS], storage=StorageType.FILE)
        subscriber.ask(lambda jetstream: jetstream.add_stream(events))
        host_operator.start(**small.flags(), manage_streams="false").leads()
        namespace.create(workflow("before", task("only")))
        namespace.succeeded("before")
        whole_run(namespace, subscriber, "before")

        subscriber.ask(lambda jetstream: jetstream.add_stream(StreamConfig(name="FILLER", subjects=["filler"])))
        with pytest.raises(nats.js.errors.APIError):
            for size in [65536] * 20 + [1024] * 100 + [16] * 100:
                subscriber.ask(lambda jetstream, size=size: jetstream.publish("filler", b"x" * size))
        namespace.create(workflow("crowded", *steps(2)))
        namespace.succeeded("crowded")
        assert host_operator.metric("compozy_events_pending") > 0
        assert host_operator.metric("compozy_events_publish_failures_total") > 0

        subscriber.ask(lambda jetstream: jetstream.delete_stream("FILLER"))
        whole_run(namespace, subscriber, "crowded", timeout=60)
        whole_run(namespace, subscriber, "before")
        assert host_operator.metric("compozy_events_lost_total") == 0


def duration(namespace, name):
    """How long a run took from the user's side, in seconds."""
    begin = time.monotonic()
    namespace.create(workflow(name, *steps(4)))
    namespace.succeeded(name, timeout=60)
    return time.monotonic() - begin


def test_a_server_that_takes_half_a_second_for_each_answer_slows_no_run(
    namespace, subscriber, host_operator, host_nats
):
    host_operator.start().leads()
    usual = duration(namespace, "usual")
    host_operator.close()
    with contextlib.closing(Proxy("127.0.0.1", host_nats.port, delay=0.5)) as slow:
        host_operator.start(nats_url=f"nats://127.0.0.1:{slow.port}").leads()
        slowed = duration(namespace, "slowed")
        assert slowed < 2 * usual + 5, f"{slowed:.1f} s with a slow NATS, {usual:.1f} s with a quick one"
        whole_run(namespace, subscriber, "slowed", timeout=60)
        assert slow.made
        # Ended in order, and what it leaves behind was told once.
        host_operator.close()
    whole_run(namespace, subscriber, "usual")
