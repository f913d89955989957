"""A NATS client of another make than the operator's, on a thread of its own: tests are not asynchronous."""

import asyncio
import threading

import nats


class NatsClient:
    """Connected by `connect`, until it is closed; reconnecting is its own business."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.connection, self.errors = None, []

    def run(self, coroutine, timeout=30):
        """What comes of a coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    async def connect(self, url, user=None, password=None, **options):
        async def note(error):
            self.errors.append(str(error))

        self.connection = await nats.connect(
            url, user=user, password=password, error_cb=note,
            max_reconnect_attempts=-1, reconnect_time_wait=0.2, connect_timeout=5, **options,
        )  # fmt: skip

    def refusal(self, act):
        """What the server says against `act(connection)`; nothing if it lets that pass."""

        async def go():
            await act(self.connection)
            # Twice: the first question may overtake what was only put into the client's buffer.
            await self.connection.flush()
            await self.connection.flush()

        self.errors.clear()
        self.run(go())
        return " ".join(self.errors).lower()

    def close(self):
        if self.connection:
            self.run(self.connection.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=5)
