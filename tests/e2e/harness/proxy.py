"""A way to a server that a test can make slow, cut or close."""

import asyncio
import contextlib
import threading


class Proxy:
    """Listens on this machine and passes everything on to `host:port`, answers `delay` seconds later."""

    def __init__(self, host, port, delay=0.0):
        self.target = (host, port)
        self.delay = delay
        self.open = {}  # the writers of each connection
        self.made = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def _serve(self, reader, writer):
        try:
            answers, onward = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        self.made += 1
        name = object()
        self.open[name] = (writer, onward)
        await asyncio.gather(self._pass(reader, onward, 0), self._pass(answers, writer, self.delay))
        del self.open[name]

    async def _pass(self, source, sink, delay):
        """Every piece so much later, however many are under way."""
        pieces = asyncio.Queue()

        async def deliver():
            while piece := await pieces.get():
                due, content = piece
                await asyncio.sleep(max(0, due - self.loop.time()))
                sink.write(content)
                await sink.drain()
            sink.close()

        delivery = asyncio.create_task(deliver())
        with contextlib.suppress(OSError):
            while content := await source.read(1 << 16):
                pieces.put_nowait((self.loop.time() + delay, content))
        pieces.put_nowait(None)
        with contextlib.suppress(OSError):
            await delivery

    def cut(self):
        """Breaks every connection that stands; how many that were."""

        async def abort():
            for pair in (standing := list(self.open.values())):
                for writer in pair:
                    writer.transport.abort()
            return len(standing)

        return self._run(abort())

    def close(self):
        async def end():
            self.server.close()
            await asyncio.sleep(0)

        self.cut()
        self._run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=5)
