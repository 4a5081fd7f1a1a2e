"""A TCP proxy in front of a test's server, which makes the way there slow, busy, or the cause of something else."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Proxy:
    """Passes connections on to `port` of 127.0.0.1, with half of `round_trip_s` each way.

    The first `busy` requests are answered 503 SlowDown. Once `after_bytes` have passed in one direction (`sent` to the
    server, or `received` from it), `then` is called, once, in a thread of its own.
    """

    def __init__(
        self,
        port: int,
        *,
        round_trip_s: float = 0.0,
        busy: float = 0,
        sent: int | None = None,
        received: int | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self.busy_answers = 0
        self._upstream_port = port
        self._delay_s = round_trip_s / 2
        self._busy = busy
        self._left = {"sent": sent, "received": received}
        self._then = then
        self._loop = asyncio.new_event_loop()
        self._consequence: threading.Thread | None = None
        self._thread = threading.Thread(target=self._serve)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if self._consequence is not None:
            self._consequence.join()

    @property
    def fired(self) -> bool:
        """Whether `then` was called."""
        return self._consequence is not None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        connections = asyncio.all_tasks(self._loop)
        for task in connections:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*connections, return_exceptions=True))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.busy_answers < self._busy:
                self.busy_answers += 1
                await reader.readuntil(b"\r\n\r\n")
                head = f"HTTP/1.1 503 Slow Down\r\nContent-Length: {len(SLOW_DOWN)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + SLOW_DOWN)
                await writer.drain()
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            await asyncio.gather(self._pass_on(reader, up_writer, "sent"), self._pass_on(up_reader, writer, "received"))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side is gone, or the proxy ends
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        """Pass bytes on in one direction, each after the delay; more may be on their way meanwhile."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
        arrivals = asyncio.ensure_future(self._deliver(queue, writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                self._count(direction, len(data))
                await queue.put((self._loop.time() + self._delay_s, data))
        finally:
            await queue.put((self._loop.time() + self._delay_s, b""))
            await arrivals

    async def _deliver(self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if not data:
                writer.close()
                return
            if writer.is_closing():
                continue  # the other side is gone; what is on its way to it is lost
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()

    def _count(self, direction: str, count: int) -> None:
        left = self._left[direction]
        if left is None:
            return
        self._left[direction] = None if left <= count else left - count
        if left <= count:
            self._consequence = threading.Thread(target=self._then)
            self._consequence.start()
