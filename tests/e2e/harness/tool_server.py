"""A tool that a test serves: a NATS client of another make, which knows the bare protocol alone."""

import asyncio
import json
import threading

import nats


class ToolServer:
    """Answers each call of a tool as `answer(call, say)` has it: `say(status, **more)` publishes one answer."""

    def __init__(self, url, user, password, namespace, tool, answer):
        self.calls, self.errors, self.answering = [], [], set()
        self.answer = answer
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.connection = self._run(self._connect(url, user, password, f"{namespace}_{tool}"))

    def _run(self, coroutine, timeout=30):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    async def _connect(self, url, user, password, tool):
        async def note(error):
            self.errors.append(str(error))

        connection = await nats.connect(
            url, user=user, password=password, error_cb=note, max_reconnect_attempts=-1, reconnect_time_wait=0.2
        )
        await connection.subscribe(f"compozy.commands.tool.*.execute.{tool}", queue=tool, cb=self._take)
        await connection.flush()
        return connection

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

    def refusal(self, act):
        """What the server says against `act(connection)`; nothing if it lets that pass."""

        async def go():
            await act(self.connection)
            await self.connection.flush()

        self.errors.clear()
        self._run(go())
        return " ".join(self.errors).lower()

    def close(self):
        self._run(self.connection.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=5)
