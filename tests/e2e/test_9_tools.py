"""Tools over NATS: a task's whole logic is one call. Flow document 05, both branches, and whatever a tool may do."""

import asyncio
import contextlib
import subprocess
import time

import pytest

from harness import installation
from harness.events import by_object, whole_run
from harness.manifests import call, retry, tool, workflow


async def doubles(call, say):
    await say("STARTED")
    await say("SUCCESS", output={"n": 2 * call["input_args"]["n"]})


async def declines(_call, say):
    await say("STARTED")
    await say("TOOL_ERROR", error={"message": "the card was declined", "code": "CARD_DECLINED", "details": {"at": 3}})


async def never(_call, _say):
    pass


def told(namespace, subscriber, name, task):
    """Entity and event of everything that was told of a task, in order."""
    uid = namespace.executions(name)[task]["metadata"]["uid"]
    messages = by_object(whole_run(namespace, subscriber, name))[uid]
    return [f"{message.entity} {message.event}" for message in messages], messages


def test_a_tool_gives_the_outputs_of_its_task(namespace, subscriber, serve):
    server = serve("double", doubles)
    namespace.create(tool("double"))
    chain = [
        call("once", "double", **{"with": {"n": 4}}),
        call("twice", "double", dependsOn=["once"], **{"with": {"n": "${{ tasks.once.outputs.n }}"}}),
    ]
    namespace.create(workflow("chain", *chain, outputs={"n": "${{ tasks.twice.outputs.n }}"}))
    assert namespace.succeeded("chain")["status"]["outputs"] == {"n": 16}

    execution = namespace.executions("chain")["once"]
    [first, _] = server.calls
    run = namespace.get("cw", "chain")["metadata"]["uid"]
    assert (first["tool_id"], first["input_args"], first["namespace"]) == ("double", {"n": 4}, namespace.name)
    assert (first["workflow_exec_id"], first["task_id"]) == (run, "once")
    assert (first["task_exec_id"], first["attempt"]) == (execution["metadata"]["uid"], 1)
    assert execution["status"]["executor"] == "tool/double"
    events, messages = told(namespace, subscriber, "chain", "once")
    assert events == ["task scheduled", "task started", "tool started", "tool completed", "task completed"]
    completed = messages[3].payload
    assert completed["tool_execution_status"] == "SUCCESS"
    assert completed["output"] == {"n": 8}
    assert (completed["tool_id"], completed["tool_exec_id"]) == ("double", first["tool_exec_id"])
    assert namespace.pods("chain") == []


def test_flow_document_05_a_tool_side_error(namespace, subscriber, serve):
    """The first branch: ToolExecutionResult (TOOL_ERROR), ToolExecutionSuccess that says so, TaskExecutionFailed."""
    server = serve("charge", declines)
    namespace.create(tool("charge"))
    namespace.create(workflow("order", call("pay", "charge", retry=retry(2), **{"with": {"amount": 5}})))
    error = namespace.failed("order")
    assert error["details"]["task_error"]["code"] == "TOOL_ERROR"
    assert "the card was declined" in error["details"]["task_error"]["message"]

    events, messages = told(namespace, subscriber, "order", "pay")
    attempt = ["task started", "tool started", "tool completed", "task failed"]
    assert events == ["task scheduled", *attempt, "task retry_scheduled", *attempt]
    answered = [message.payload for message in messages if message.entity == "tool" and message.event == "completed"]
    assert [payload["tool_execution_status"] for payload in answered] == ["TOOL_ERROR", "TOOL_ERROR"]
    assert {payload["error"]["code"] for payload in answered} == {"CARD_DECLINED"}
    assert [payload["tool_exec_id"] for payload in answered] == [seen["tool_exec_id"] for seen in server.calls]
    assert len({seen["tool_exec_id"] for seen in server.calls}) == 2
    failed = messages[-1].payload
    assert failed["error"]["code"] == "TOOL_ERROR"
    assert failed["error"]["details"]["tool_error"]["code"] == "CARD_DECLINED"


@pytest.mark.parametrize("answer, code", [(never, "TIMEOUT"), (None, "NO_RESPONDERS")])
def test_flow_document_05_a_tool_that_does_not_answer(namespace, subscriber, serve, answer, code):
    """The second branch: ToolExecutionFailed, TaskExecutionFailed."""
    if answer:
        serve("charge", answer)
    namespace.create(tool("charge", timeout="2s"))
    namespace.create(workflow("order", call("pay", "charge", **{"with": {"amount": 5}})))
    error = namespace.failed("order")["details"]["task_error"]
    assert error["code"] == "TOOL_UNAVAILABLE"

    events, messages = told(namespace, subscriber, "order", "pay")
    assert events == ["task scheduled", "task started", "tool failed", "task failed"]
    assert messages[2].payload["error"]["code"] == code
    assert messages[3].payload["error"]["code"] == "TOOL_UNAVAILABLE"


def test_what_a_tool_answers_twice_or_late_counts_once_or_not_at_all(namespace, subscriber, serve):
    async def twice(call, say):
        await say("SUCCESS", output={"n": 1})
        await say("SUCCESS", output={"n": 2})
        await say("TOOL_ERROR", error={"message": "no", "code": "LATE"})

    async def late(call, say):
        await asyncio.sleep(3)
        await say("SUCCESS", output={"n": 1})

    serve("twice", twice)
    server = serve("late", late)
    namespace.create(tool("twice"))
    namespace.create(tool("late", timeout="1s"))
    tasks = [call("twice", "twice"), call("late", "late", onFailure="Continue"), call("after", "late", dependsOn=["late"])]
    namespace.create(workflow("answers", *tasks, failurePolicy="Complete"))
    namespace.failed("answers")
    found = namespace.executions("answers")
    assert found["twice"]["status"]["outputs"] == {"n": 1}
    assert [found[name]["status"]["error"]["code"] for name in ("late", "after")] == ["TOOL_UNAVAILABLE"] * 2
    assert len(server.calls) == 2
    events, _ = told(namespace, subscriber, "answers", "twice")
    assert events == ["task scheduled", "task started", "tool started", "tool completed", "task completed"]


@pytest.mark.parametrize(
    "body, code",
    [
        (b"garbage", "TOOL_UNAVAILABLE"),
        (b'{"status": "SUCCESS"}', "TOOL_UNAVAILABLE"),
        (b'{"tool_exec_id": "ID", "status": "SUCCESS", "output": [1]}', "INVALID_OUTPUTS"),
        (b'{"tool_exec_id": "ID", "status": "SUCCESS", "output": {"x": "' + b"x" * 300_000 + b'"}}', "OUTPUTS_TOO_LARGE"),
    ],
    ids=["no-json", "without-its-id", "no-object", "too-large"],
)
def test_an_answer_that_cannot_be_taken_fails_the_task_and_says_why(namespace, serve, body, code):
    async def answers(call, _say):
        answer = body.replace(b"ID", call["tool_exec_id"].encode())
        await server.connection.publish(call["reply_to_subject"], answer)

    server = serve("odd", answers)
    namespace.create(tool("odd"))
    namespace.create(workflow("odd", call("ask", "odd")))
    error = namespace.failed("odd")["details"]["task_error"]
    assert error["code"] == code, error


def test_a_task_waits_visibly_for_a_tool_that_is_not_there(namespace, serve):
    serve("double", doubles)
    executions = namespace.watch("te")
    namespace.create(workflow("early", call("ask", "double", **{"with": {"n": 1}})))
    executions.one(lambda found: found.get("status", {}).get("reason") == "ToolMissing", what="it says what it waits for")
    namespace.create(tool("double"))
    assert namespace.succeeded("early")


def test_items_call_a_tool_each(namespace, serve):
    server = serve("double", doubles)
    namespace.create(tool("double"))
    items = call("each", "double", forEach={"items": list(range(20))}, **{"with": {"n": "${{ item }}"}})
    namespace.create(workflow("items", items, outputs={"all": "${{ tasks.each.outputs }}"}))
    outputs = namespace.succeeded("items")["status"]["outputs"]
    assert [one["n"] for one in outputs["all"]] == [2 * n for n in range(20)]
    assert len(server.calls) == 20


EXAMPLES = installation.ROOT / "examples" / "tools"


@pytest.fixture
def executor(namespace, tmp_path):
    """Lets the executor serve the example's tool, until the test ends."""
    for name, value in zip(("user", "password"), installation.secret("tools"), strict=True):
        (tmp_path / name).write_text(value)
    flags = ["--namespace", namespace.name, "--nats", installation.nats_url()]
    flags += [f"--nats-{name}-file={tmp_path / name}" for name in ("user", "password")]
    with contextlib.ExitStack() as stack:

        def begin(*handler):
            command = [installation.executor_binary(), "tool", "serve", "word-count", *flags, *handler]
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            return process

        yield begin


@pytest.mark.parametrize(
    "handler",
    [("--exec", "--", EXAMPLES / "word-count.sh"), ("--stdio", "--", "python3", EXAMPLES / "word_count.py")],
    ids=["exec", "stdio"],
)
def test_the_executor_serves_the_tool_of_the_example(namespace, executor, handler):
    executor(*handler)
    manifest = (EXAMPLES / "word-count.yaml").read_text()
    namespace.kubectl("apply", "-f", "-", stdin=manifest)
    assert namespace.succeeded("count-words")["status"]["outputs"] == {"words": 6}


def test_a_tool_that_hangs_fails_its_task_in_time(namespace, executor):
    executor("--exec", "--", "sleep", "600")
    namespace.create(tool("word-count", timeout="3s"))
    namespace.create(workflow("hangs", call("ask", "word-count")))
    assert namespace.failed("hangs")["details"]["task_error"]["code"] == "TOOL_UNAVAILABLE"


def test_a_tools_server_that_is_killed_during_a_call_costs_one_try_and_no_more_time_than_the_tools(
    namespace, executor, tmp_path
):
    began = tmp_path / "began"
    killed = executor("--exec", "--", "sh", "-c", f"touch {began}; sleep 10")
    namespace.create(tool("word-count", timeout="3s"))
    namespace.create(workflow("killed", call("ask", "word-count", retry=retry(2))))
    until = time.monotonic() + 20
    while not began.exists():
        assert time.monotonic() < until, "the call did not reach the tool"
        time.sleep(0.05)
    killed.kill()
    executor("--exec", "--", "echo", '{"words": 1}')
    namespace.succeeded("killed")
    attempts = namespace.executions("killed")["ask"]["status"]["attempts"]
    assert [attempt["reason"] for attempt in attempts] == ["TOOL_UNAVAILABLE", "Completed"]


def test_an_answer_of_two_mebibytes_fails_the_task_and_says_that_it_is_too_large(namespace, executor):
    words = """printf '{"x": "'; head -c 2097152 /dev/zero | tr '\\0' x; printf '"}'"""
    executor("--exec", "--", "sh", "-c", words)
    namespace.create(tool("word-count", timeout="20s"))
    namespace.create(workflow("large", call("ask", "word-count")))
    error = namespace.failed("large")["details"]["task_error"]
    assert (error["code"], error["details"]["tool_error"]["code"]) == ("TOOL_ERROR", "OUTPUTS_TOO_LARGE"), error


def test_whoever_serves_tools_can_neither_forge_events_nor_hear_others(namespace, subscriber, serve):
    server = serve("double", doubles)
    for subject in (
        "compozy.events.task.instance.x.completed",
        "compozy.commands.tool.a_b.execute.a_c",
        "$JS.API.STREAM.DELETE.COMPOZY_EVENTS",
    ):
        assert "publish" in server.refusal(lambda connection, subject=subject: connection.publish(subject, b"{}"))
    for subject in ("compozy.results.tool.>", "compozy.events.>", "_INBOX.>"):
        assert "subscription" in server.refusal(lambda connection, subject=subject: connection.subscribe(subject))
    # What JetStream says of a stored answer goes to the reply subject: to whoever asked, and nowhere else.
    event, answer = "compozy.events.task.instance.forged.completed", f"compozy.results.tool.{namespace.name}.caller.call"
    assert not server.refusal(lambda connection: connection.publish(answer, b"{}", reply=event))
    namespace.create(tool("double"))
    namespace.create(workflow("real", call("ask", "double", **{"with": {"n": 1}})))
    namespace.succeeded("real")
    whole_run(namespace, subscriber, "real")
    assert event not in [message.subject for message in subscriber.messages]
