"""An independent subscriber: what the operator published, as anybody with the read-only credentials sees it."""

import asyncio
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from .nats_client import NatsClient

STREAM = "COMPOZY_EVENTS"
SUBJECTS = "compozy.events.>"
FINAL = {"completed", "failed", "cancelled", "timed_out"}


@dataclass(frozen=True)
class Message:
    subject: str
    headers: dict
    payload: dict
    position: int | None = None  # in the stream; none for a plain subscription

    @property
    def uid(self):
        """The workflow execution or task execution that this is about; of a tool's event, who called it."""
        return self.headers["ce-id"].rsplit(":", 1)[0]

    @property
    def instance(self):
        """What its subject names: the workflow execution, the task execution, or the call of a tool."""
        return self.subject.split(".")[4]

    @property
    def event(self):
        return self.subject.split(".")[5]

    @property
    def sequence(self):
        return int(self.headers["ce-sequence"])

    @property
    def run(self):
        """The UID of the workflow."""
        return self.headers["ce-source"].rsplit("/", 1)[1]

    @property
    def entity(self):
        """workflow, task or tool."""
        return self.subject.split(".")[2]

    def __str__(self):
        return f"{self.entity} {self.uid} {self.headers.get('ce-sequence')} {self.event}"


class Subscriber(NatsClient):
    """Listens to all events from its creation on, and reads the stream from its beginning when asked."""

    def __init__(self, url, user, password, **tls):
        super().__init__()
        self.messages = []
        self.arrived = threading.Condition()
        self.run(self._subscribe(url, user, password, tls))

    async def _subscribe(self, url, user, password, tls):
        # The user may only receive answers under an inbox prefix of its own.
        await self.connect(url, user, password, inbox_prefix=f"_INBOX_{user}".encode(), **tls)
        await self.connection.subscribe(SUBJECTS, cb=self._take)
        await self.connection.flush()

    async def _take(self, raw):
        with self.arrived:
            self.messages.append(_message(raw))
            self.arrived.notify_all()

    def of(self, run):
        """What arrived so far of one run, in the order of arrival."""
        with self.arrived:
            return [message for message in self.messages if message.run == run]

    def until(self, run, question, timeout=30, what="the awaited events"):
        """The run's messages once `question(messages)` is true of them."""
        until = time.monotonic() + timeout
        while not question(messages := self.of(run)):
            with self.arrived:
                left = until - time.monotonic()
                assert left > 0, f"not within {timeout} s: {what}; arrived: {listing(messages)}"
                self.arrived.wait(min(left, 1))
        return messages

    def stored(self, run, question, timeout=30, what="the awaited events"):
        """The run's messages in the stream, read from its sequence 1 on, once `question(messages)` is true of them."""
        return self.run(self._read(run, question, timeout, what), timeout + 30)

    def ask(self, question, timeout=30):
        """The answer to a question to JetStream, such as `lambda jetstream: jetstream.delete_stream(STREAM)`."""
        return self.run(question(self.connection.jetstream()), timeout)

    async def _consume(self, until, timeout):
        """Reads the stream from its beginning, once it is there."""
        consumer = ConsumerConfig(
            deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, inactive_threshold=30, mem_storage=True
        )
        why = "no connection"
        while time.monotonic() < until:
            if self.connection.is_connected:
                try:
                    return await self.connection.jetstream().pull_subscribe(SUBJECTS, stream=STREAM, config=consumer)
                except (nats.errors.Error, TimeoutError, OSError) as error:
                    why = error
            await asyncio.sleep(0.1)
        raise AssertionError(f"the stream is not there within {timeout} s: {why}")

    async def _read(self, run, question, timeout, what):
        until, found = time.monotonic() + timeout, []
        subscription = await self._consume(until, timeout)
        try:
            while True:
                left = until - time.monotonic()
                assert left > 0, f"not within {timeout} s: {what}; in the stream: {listing(found)}"
                try:
                    batch = await subscription.fetch(200, timeout=min(left, 1))
                except TimeoutError:  # of nats or of asyncio
                    batch = []
                found += [message for message in map(_message, batch) if message.run == run]
                # Only at the end of what is stored: more may follow what satisfies the question.
                if (not batch or batch[-1].metadata.num_pending == 0) and question(found):
                    return found
        finally:
            await subscription.unsubscribe()


def _message(raw):
    position = raw.metadata.sequence.stream if raw.reply.startswith("$JS.ACK.") else None
    return Message(raw.subject, dict(raw.headers or {}), json.loads(raw.data), position)


def listing(messages):
    """Messages for a person, a line each."""
    return "\n  ".join([f"{len(messages)} messages", *map(str, messages)])


def by_object(messages):
    """The messages of each workflow and task execution, in order."""
    objects = defaultdict(list)
    for message in messages:
        objects[message.uid].append(message)
    return dict(objects)


def names(messages):
    """The events' names, in order."""
    return [message.event for message in messages]


def run_of(workflow, executions=()):
    """How far the status of a workflow and of its task executions has come: the last sequence number of each."""

    def last(found, least):
        return max([least, *(transition["seq"] for transition in found.get("status", {}).get("transitions", []))])

    # A task execution's first event, scheduled, is its creation and not in the list.
    expected = {execution["metadata"]["uid"]: last(execution, 1) for execution in executions}
    return {workflow["metadata"]["uid"]: last(workflow, 0), **expected}


def whole_run(namespace, subscriber, workflow, timeout=30):
    """The stored events of a finished run: all that the objects' status promises, each exactly once and in order."""
    finished = namespace.get("cw", workflow)
    expected = run_of(finished, namespace.executions(workflow).values())

    def complete(messages):
        last = {uid: max(message.sequence for message in found) for uid, found in by_object(messages).items()}
        return all(last.get(uid, 0) >= sequence for uid, sequence in expected.items())

    stored = subscriber.stored(finished["metadata"]["uid"], complete, timeout, f"all events of {workflow}")
    assert_exactly_once_in_order(stored, expected)
    return stored


def assert_exactly_once_in_order(stored, expected):
    """The stream holds 1..n of every object, exactly once, in order, under the ids that make it so."""
    objects = by_object(stored)
    assert set(objects) == set(expected), f"other objects than {sorted(expected)}: {listing(stored)}"
    for uid, messages in objects.items():
        sequences = [message.sequence for message in messages]
        assert sequences == list(range(1, expected[uid] + 1)), f"{uid}: {listing(messages)}"
    for message in stored:
        assert message.headers["ce-id"] == f"{message.uid}:{message.sequence}"
        about = message.payload["tool_exec_id"] if message.entity == "tool" else message.uid
        assert message.instance == about
        assert message.headers["Nats-Msg-Id"] == message.headers["ce-id"]
        assert message.payload["sequence"] == message.sequence
    positions = [message.position for message in stored]
    assert positions == sorted(set(positions))
