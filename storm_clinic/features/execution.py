"""Read slides on this machine, in processes that may crash or hang."""

from __future__ import annotations

import math
import mmap
import os
import subprocess
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from types import TracebackType
from typing import Any

import numpy as np

from storm_clinic.features.child_process import (
    PATIENCE_S,
    READY,
    START_S,
    Child,
    anonymous_memory,
    cannot_start,
    start_child,
)
from storm_clinic.features.lost_tasks import MAX_TRIES, Crashed, Hung, TimeLimits
from storm_clinic.features.tiling import Pixels, ReaderSettings, Reply, Task

# One task in work and one waiting, so that no reader idles while this process is busy.
_TASKS_A_READER = 2
_MODULE = "storm_clinic.features.reader_process"


@dataclass(frozen=True)
class Outcome:
    """A task that is over."""

    task: Task
    reply: Reply | Crashed | Hung


@dataclass(eq=False)
class _Reader(Child):
    ready: bool = False
    tasks: deque[_Pending] = field(default_factory=deque)
    # When it began what it is at now: to start, or its first task.
    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Pending:
    task: Task
    tries: int = 0


class ReaderPool:
    """Processes that do tasks, and the memory they share with this one.

    A task on which a process dies, or hangs and is ended, is given to another, at most `MAX_TRIES`
    times. Use as a context manager; on leaving, no process and no shared memory is left behind, and
    neither is if this process is killed.

    Attributes
    ----------
    n_readers : int
    slots : uint8 array, shape (n_slots, batch_size, tile_px, tile_px, 3)
        Where readers put pixels.
    """

    def __init__(
        self, n_readers: int, settings: ReaderSettings, limits: TimeLimits | None = None
    ) -> None:
        self.n_readers = n_readers
        self._settings = settings
        self._limits = limits or TimeLimits()
        self._spent_s: dict[str, float] = {}  # of each slide in work
        self._failed_starts = 0  # one after the other
        self._memory = anonymous_memory(settings.n_bytes)
        self._shared = mmap.mmap(self._memory, settings.n_bytes)
        self.slots: Pixels = np.frombuffer(self._shared, dtype=np.uint8).reshape(settings.shape)
        self._urgent: deque[_Pending] = deque()
        self._waiting: deque[_Pending] = deque()
        self._readers: list[_Reader] = []
        try:
            self._readers += (self._start() for _ in range(n_readers))
        except BaseException:
            self.close()
            raise

    def submit(self, task: Task, *, urgent: bool = False) -> None:
        """Have a task done after those that wait; an urgent one only after other urgent ones."""
        (self._urgent if urgent else self._waiting).append(_Pending(task))

    def drop(self, slide_id: str) -> list[Task]:
        """Forget a slide. Returns its tasks that nobody has begun; those in work still end once."""
        dropped: list[Task] = []
        for queue in (self._urgent, self._waiting):
            of_slide = [pending for pending in queue if pending.task.job.slide_id == slide_id]
            for pending in of_slide:
                queue.remove(pending)
                dropped.append(pending.task)
        for reader in self._readers:
            for pending in reader.tasks:
                if pending.task.job.slide_id == slide_id:
                    pending.tries = MAX_TRIES - 1
        self._spent_s.pop(slide_id, None)
        return dropped

    def wait(self, others: Iterable[Any] = ()) -> list[Outcome]:
        """Wait for replies, or for one of ``others`` (sockets) to become readable.

        Returns the tasks that are over; none, if it was one of the others.

        Raises
        ------
        StormClinicError
            If readers cannot be started.
        """
        awaited = list(others)
        outcomes: list[Outcome] = []
        called = False
        while not outcomes and not called:
            self._hand_out()
            by_link = {reader.link: reader for reader in self._readers}
            for ready in connection.wait([*by_link, *awaited], self._patience_s()):
                if ready in by_link:
                    outcomes += self._receive(by_link.pop(ready))
                else:
                    called = True
            for silent in by_link.values():
                if self._left_s(silent) <= 0:
                    outcomes += self._end_hung(silent)
        return outcomes

    def _patience_s(self) -> float | None:
        """Until the first reader is overdue; None while none has anything to do."""
        left = [self._left_s(reader) for reader in self._readers]
        least = min(left, default=math.inf)
        return None if math.isinf(least) else max(0.0, least)

    def _left_s(self, reader: _Reader) -> float:
        """How much longer a reader may take for what it is at."""
        if not reader.ready:
            limit = START_S
        elif reader.tasks:
            spent = self._spent_s.get(reader.tasks[0].task.job.slide_id, 0.0)
            limit = min(self._limits.task_s, self._limits.slide_s - spent)
        else:
            limit = math.inf
        return reader.since + limit - time.monotonic()

    def close(self) -> None:
        """End all processes and give the memory back."""
        for reader in self._readers:
            reader.link.close()  # ends it after the task it is at
        deadline = time.monotonic() + PATIENCE_S
        for reader in self._readers:
            if reader.tasks:
                with suppress(subprocess.TimeoutExpired):
                    reader.process.wait(max(0.0, deadline - time.monotonic()))
            reader.end()
        self._readers.clear()
        os.close(self._memory)
        self.slots = self.slots[:0].copy()
        with suppress(BufferError):  # somebody still looks at it; then it goes with them
            self._shared.close()

    def __enter__(self) -> ReaderPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> _Reader:
        child = start_child(_MODULE, self._memory)
        child.link.send(self._settings)
        return _Reader(child.process, child.link)

    def _hand_out(self) -> None:
        for load in range(_TASKS_A_READER):
            for reader in self._readers:
                queue = self._urgent or self._waiting
                if queue and len(reader.tasks) == load:
                    with suppress(BrokenPipeError, ConnectionResetError):  # it died; see `wait`
                        reader.link.send(queue[0].task)
                        if reader.ready and not reader.tasks:
                            reader.since = time.monotonic()
                        reader.tasks.append(queue.popleft())

    def _receive(self, reader: _Reader) -> list[Outcome]:
        try:
            reply = reader.link.recv()
        except (EOFError, ConnectionResetError):
            return self._bury(reader)
        if reply == READY:
            reader.ready = True
            self._failed_starts = 0
            reader.since = time.monotonic()
            return []
        task = reader.tasks.popleft().task
        self._count_time(reader, task)
        return [Outcome(task, reply)]

    def _count_time(self, reader: _Reader, task: Task) -> None:
        now = time.monotonic()
        slide_id = task.job.slide_id
        self._spent_s[slide_id] = self._spent_s.get(slide_id, 0.0) + now - reader.since
        reader.since = now

    def _end_hung(self, reader: _Reader) -> list[Outcome]:
        if not reader.ready:
            reader.end()
            return self._start_again(reader, f"it did nothing for {START_S:g} s")
        guilty = reader.tasks[0]
        self._count_time(reader, guilty.task)
        slide_is_over = self._spent_s[guilty.task.job.slide_id] >= self._limits.slide_s
        reader.end()
        hung = Hung(self._limits, guilty.tries + 1, whole_slide=slide_is_over)
        return self._replace(reader, hung)

    def _bury(self, reader: _Reader) -> list[Outcome]:
        """Replace a process that died."""
        status = reader.status()
        if not reader.ready:
            return self._start_again(reader, f"it ended with status {status}")
        tries = reader.tasks[0].tries + 1 if reader.tasks else 0
        return self._replace(reader, Crashed(status, tries))

    def _start_again(self, reader: _Reader, how: str) -> list[Outcome]:
        """Replace a process that never began; one may have been killed, several have a reason."""
        self._failed_starts += 1
        if self._failed_starts >= MAX_TRIES:
            raise cannot_start(_MODULE, how)
        self._urgent.extendleft(reversed(reader.tasks))
        reader.tasks.clear()
        return self._replace(reader)

    def _replace(self, reader: _Reader, reply: Crashed | Hung | None = None) -> list[Outcome]:
        """Start another process; the task that this one worked on counts one more try."""
        reader.link.close()
        self._readers[self._readers.index(reader)] = self._start()
        if reply is None or not reader.tasks:
            return []
        guilty = reader.tasks.popleft()
        self._urgent.extendleft(reversed(reader.tasks))
        guilty.tries += 1
        if guilty.tries >= MAX_TRIES or (isinstance(reply, Hung) and reply.whole_slide):
            return [Outcome(guilty.task, reply)]
        self._urgent.appendleft(guilty)
        return []
