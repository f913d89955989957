"""A tool that a test serves: a NATS client of another make, which knows the bare protocol alone."""

import asyncio
import json

from .nats_client import NatsClient


class ToolServer(NatsClient):
    """Answers each call of a tool as `answer(call, say)` has it: `say(status, **more)` publishes one answer."""

    def __init__(self, url, user, password, namespace, tool, answer):
        super().__init__()
        self.calls, self.answering = [], set()
        self.answer = answer
        self.run(self._serve(url, user, password, f"{namespace}_{tool}"))

    async def _serve(self, url, user, password, tool):
        await self.connect(url, user, password)
        await self.connection.subscribe(f"compozy.commands.tool.*.execute.{tool}", queue=tool, cb=self._take)
        await self.connection.flush()

    async def _take(self, raw):
        call = json.loads(raw.data)
        self.calls.append(call)

        async def say(status, **more):
            body = {"tool_exec_id": call["tool_exec_id"], "status": status, **more}
            await self.connection.publish(call["reply_to_subject"], json.dumps(body).encode())

        # Beside the next call, which must not wait for this one.
        task = asyncio.create_task(self.answer(call, say))
        self.answering.add(task)
        task.add_done_callback(self.answering.discard)
