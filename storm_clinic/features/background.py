"""Work that goes on while the main thread deals out more of it."""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

# What is to follow, and the future it follows.
Ending = tuple[Callable[[Any], None], Future[Any]]


class BackgroundThreads:
    """A thread that encodes, one that waits for a GPU, one that writes; a bell rings at each end.

    Attributes
    ----------
    bell : socket
        Readable when something is done.
    """

    def __init__(self) -> None:
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._collector = ThreadPoolExecutor(1, "collector")
        self._writer = ThreadPoolExecutor(1, "writer")
        self._done: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self.bell, self._ring = socket.socketpair()
        for end in (self.bell, self._ring):
            end.setblocking(False)

    def encode(self, start: Callable[[], Callable[[], Any]], then: Callable[[Any], None]) -> None:
        """Start this on the encoder's thread, and do what that returns on the collector's.

        So the next batch is started while a GPU computes this one. `finished` hands the future of
        what the second function returns to ``then``.
        """
        started = self._encoder.submit(start)
        self._submit(self._collector, lambda: started.result()(), then)

    def write(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do this on the writer's thread; `finished` hands its future to ``then``."""
        self._submit(self._writer, work, then)

    def _submit(
        self, pool: ThreadPoolExecutor, work: Callable[[], Any], then: Callable[[Any], None]
    ) -> None:
        def report(future: Future[Any]) -> None:
            self._done.put((then, future))
            self._ring.send(b"!")

        pool.submit(work).add_done_callback(report)

    def finished(self) -> list[Ending]:
        """What is done since the last call, each with what is to follow; does not wait."""
        with suppress(BlockingIOError):
            self.bell.recv(4096)
        return [self._done.get() for _ in range(self._done.qsize())]

    def __enter__(self) -> BackgroundThreads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in (self._encoder, self._collector, self._writer):
            pool.shutdown(wait=True, cancel_futures=True)
        self.bell.close()
        self._ring.close()
