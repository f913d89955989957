"""Flow document 01, a task that is executed successfully, message by message as an independent subscriber receives it."""

from datetime import datetime

from harness.events import by_object, whole_run
from harness.manifests import env, task, workflow

GREET = 'echo "{\\"text\\": \\"hello $WHO\\"}" > $COMPOZY_OUTPUTS'


def test_a_subscriber_receives_the_flow_message_by_message(namespace, subscriber):
    greet = task("greet", GREET, {"env": env(WHO="${{ inputs.who }}")}, **{"with": {"to": "${{ inputs.who }}"}})
    run = namespace.create(
        workflow("hello", greet, inputs={"who": "world"}, outputs={"said": "${{ tasks.greet.outputs.text }}"})
    )["metadata"]["uid"]
    ended = namespace.succeeded("hello")
    assert ended["status"]["outputs"] == {"said": "hello world"}
    execution = namespace.executions("hello")["greet"]["metadata"]["uid"]

    messages = subscriber.until(
        run, lambda found: any(message.event == "completed" and message.uid == run for message in found)
    )
    objects = by_object(messages)

    # Subjects, in the order of each object.
    of_workflow, of_task = "compozy.events.workflow.instance", "compozy.events.task.instance"
    assert [message.subject for message in objects[run]] == [
        f"{of_workflow}.{run}.started",
        f"{of_workflow}.{run}.completed",
    ]
    assert [message.subject for message in objects[execution]] == [
        f"{of_task}.{execution}.scheduled",  # TaskScheduled
        f"{of_task}.{execution}.started",  # TaskExecutionStarted
        f"{of_task}.{execution}.completed",  # TaskExecutionResult
    ]
    assert set(objects) == {run, execution}
    assert messages[-1].uid == run, "the workflow's completed never precedes the last event of a task"

    # Payloads.
    started, completed = objects[run]
    scheduled, running, result = objects[execution]
    assert started.payload["inputs"] == {"who": "world"}
    assert completed.payload["outputs"] == {"said": "hello world"}
    assert scheduled.payload["inputs"] == {"to": "world"}
    [pod] = namespace.pods("hello")
    assert running.payload["executor"] == pod["metadata"]["name"]
    assert result.payload["outputs"] == {"text": "hello world"}
    for message in messages:
        assert message.payload["workflow_id"] == "hello"
        assert message.payload["workflow_exec_id"] == run
        assert message.payload["namespace"] == namespace.name
        assert message.payload["sequence"] == message.sequence
        datetime.fromisoformat(message.payload["timestamp"])
    for message in objects[execution]:
        assert message.payload["task_id"] == "greet"
        assert message.payload["task_exec_id"] == execution
        assert isinstance(message.payload["attempt"], int)
    assert [message.payload["attempt"] for message in (running, result)] == [1, 1]
    assert not any("task_id" in message.payload for message in objects[run]), "a workflow's event has no task"


def test_the_headers_are_cloud_events_in_lower_case(namespace, subscriber):
    run = namespace.create(workflow("headers", task("only")))["metadata"]["uid"]
    namespace.succeeded("headers")
    execution = namespace.executions("headers")["only"]["metadata"]["uid"]

    stored = whole_run(namespace, subscriber, "headers")
    types = {
        run: ["dev.compozy.workflow.started.v1", "dev.compozy.workflow.completed.v1"],
        execution: [f"dev.compozy.task.{event}.v1" for event in ("scheduled", "started", "completed")],
    }
    for uid, messages in by_object(stored).items():
        assert [message.headers["ce-type"] for message in messages] == types[uid]
        for sequence, message in enumerate(messages, start=1):
            headers = message.headers
            assert not [name for name in headers if name != name.lower() and not name.startswith("Nats-")]
            assert headers["ce-specversion"] == "1.0"
            assert headers["ce-sequence"] == str(sequence)
            assert headers["ce-id"] == headers["Nats-Msg-Id"] == f"{uid}:{sequence}"
            assert headers["ce-source"] == f"/namespaces/{namespace.name}/workflows/{run}"
            assert uid in headers["ce-subject"]
            assert datetime.fromisoformat(headers["ce-time"]) == datetime.fromisoformat(message.payload["timestamp"])


def test_what_a_subscriber_hears_is_what_the_stream_keeps(namespace, subscriber):
    run = namespace.create(workflow("kept", task("a"), task("b", dependsOn=["a"])))["metadata"]["uid"]
    namespace.succeeded("kept")
    stored = whole_run(namespace, subscriber, "kept")
    heard = subscriber.until(run, lambda found: len(found) >= len(stored))
    assert [(message.subject, message.headers, message.payload) for message in heard] == [
        (message.subject, message.headers, message.payload) for message in stored
    ]
