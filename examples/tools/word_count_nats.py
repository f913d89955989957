"""A tool as a NATS client of its own, without the executor. Needs the package nats-py.

NATS_URL=nats://localhost:4222 python3 word_count_nats.py
"""

import asyncio
import json
import os
from datetime import UTC, datetime

import nats

NAMESPACE, TOOL = "texts", "word-count"


def run(given):
    if "text" not in given:
        return {"status": "TOOL_ERROR", "error": {"code": "NO_TEXT", "message": "the input has no text"}}
    return {"status": "SUCCESS", "output": {"words": len(given["text"].split())}}


async def main():
    client = await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1)
    answers = {}
    # The queue group is the tool's name: each call goes to one of those who serve it.
    calls = await client.subscribe(f"compozy.commands.tool.*.execute.{NAMESPACE}_{TOOL}", queue=TOOL)
    print("serving", flush=True)
    async for message in calls.messages:
        call = json.loads(message.data)
        if datetime.now(UTC) > datetime.fromisoformat(call["deadline"]):
            continue  # Nobody waits any more.
        reply, call_id = call["reply_to_subject"], call["tool_exec_id"]
        # With these rights nobody gets further than with their own.
        if not reply.startswith(f"compozy.results.tool.{NAMESPACE}."):
            continue
        # A call that comes again is not run again.
        if call_id not in answers:
            started = {"tool_exec_id": call_id, "status": "STARTED"}
            await client.publish(reply, json.dumps(started).encode())
            answers[call_id] = json.dumps({"tool_exec_id": call_id, **run(call["input_args"])}).encode()
        await client.publish(reply, answers[call_id])


asyncio.run(main())
