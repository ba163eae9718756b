"""Run extraction on this machine: reader processes that may crash, and which jobs are its share.

Readers are started with ``python -m``, not by `multiprocessing`: a user's script needs no
``if __name__ == "__main__"``, and what it imports (torch) is not imported again in each of them.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from storm_clinic.errors import InputError, StormClinicError
from storm_clinic.features.reader_process import READY
from storm_clinic.features.tiling import Pixels, ReaderSettings, Reply, Task

MAX_TRIES = 3
# One task in work and one waiting, so that no reader idles while this process is busy.
_TASKS_A_READER = 2
_PATIENCE_S = 3.0
_MODULE = "storm_clinic.features.reader_process"
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1; slides are dealt out by a hash of their id."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(
                f"there is no part {self.index} of {self.count}",
                where="shard",
                fix="Parts are counted from 1: 1/8 to 8/8.",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``.

        Raises
        ------
        InputError
            If it is not that, or i lies outside 1 to n.
        """
        found = _SHARD.fullmatch(text.strip())
        if found is None:
            raise InputError(f"{text!r} is not of the form i/n, such as 2/8", where="shard")
        return cls(int(found[1]), int(found[2]))

    def takes(self, slide_id: str) -> bool:
        """Whether this slide belongs to this part; the same on every machine."""
        digest = hashlib.sha256(slide_id.encode("utf-8")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Crashed:
    """Every process that was given the task died; the last ended with this status."""

    status: int
    tries: int

    def __str__(self) -> str:
        how = f"by signal {-self.status}" if self.status < 0 else f"with status {self.status}"
        return f"{self.tries} reader processes died on it, the last {how}"


@dataclass(frozen=True)
class Outcome:
    """A task that is over."""

    task: Task
    reply: Reply | Crashed


@dataclass(eq=False)
class _Reader:
    process: subprocess.Popen[bytes]
    link: connection.Connection[Any, Any]
    ready: bool = False
    tasks: deque[_Pending] = field(default_factory=deque)


@dataclass(eq=False)
class _Pending:
    task: Task
    tries: int = 0


class ReaderPool:
    """Processes that do tasks, and the memory they share with this one.

    A task on which a process dies is given to another, at most `MAX_TRIES` times. Use as a
    context manager; on leaving, no process and no shared memory is left behind, and neither is if
    this process is killed.

    Attributes
    ----------
    n_readers : int
    slots : uint8 array, shape (n_slots, batch_size, tile_px, tile_px, 3)
        Where readers put pixels.
    """

    def __init__(self, n_readers: int, settings: ReaderSettings) -> None:
        self.n_readers = n_readers
        self._settings = settings
        self._memory = _anonymous_file(settings.n_bytes)
        self._shared = mmap.mmap(self._memory, settings.n_bytes)
        self.slots: Pixels = np.frombuffer(self._shared, dtype=np.uint8).reshape(settings.shape)
        self._urgent: deque[_Pending] = deque()
        self._waiting: deque[_Pending] = deque()
        self._readers = [self._start() for _ in range(n_readers)]

    def submit(self, task: Task, *, urgent: bool = False) -> None:
        """Have a task done after those that wait; an urgent one only after other urgent ones."""
        (self._urgent if urgent else self._waiting).append(_Pending(task))

    def wait(self, others: Iterable[Any] = ()) -> list[Outcome]:
        """Wait for replies, or for one of ``others`` (sockets) to become readable.

        Returns the tasks that are over; none, if it was one of the others.

        Raises
        ------
        StormClinicError
            If readers cannot be started.
        """
        self._hand_out()
        by_link = {reader.link: reader for reader in self._readers}
        outcomes: list[Outcome] = []
        for ready in connection.wait([*by_link, *others]):
            if ready in by_link:
                outcomes += self._receive(by_link[ready])
        return outcomes

    def close(self) -> None:
        """End all processes and give the memory back."""
        for reader in self._readers:
            reader.link.close()  # ends it after the task it is at
        deadline = time.monotonic() + _PATIENCE_S
        for reader in self._readers:
            if reader.tasks:
                with suppress(subprocess.TimeoutExpired):
                    reader.process.wait(max(0.0, deadline - time.monotonic()))
            reader.process.kill()
            reader.process.wait()
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
        ours, theirs = connection.Pipe()
        # So that it finds this package however this process found it.
        found_by = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(theirs.fileno()), str(self._memory)],
            pass_fds=(theirs.fileno(), self._memory),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": found_by, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        reader = _Reader(process, ours)
        ours.send(self._settings)
        return reader

    def _hand_out(self) -> None:
        for load in range(_TASKS_A_READER):
            for reader in self._readers:
                queue = self._urgent or self._waiting
                if queue and len(reader.tasks) == load:
                    with suppress(BrokenPipeError, ConnectionResetError):  # it died; see `wait`
                        reader.link.send(queue[0].task)
                        reader.tasks.append(queue.popleft())

    def _receive(self, reader: _Reader) -> list[Outcome]:
        try:
            reply = reader.link.recv()
        except (EOFError, ConnectionResetError):
            return self._bury(reader)
        if reply == READY:
            reader.ready = True
            return []
        return [Outcome(reader.tasks.popleft().task, reply)]

    def _bury(self, reader: _Reader) -> list[Outcome]:
        """Replace a process that died; the task it worked on counts one more try."""
        reader.link.close()
        status = reader.process.wait()
        if not reader.ready:
            raise StormClinicError(
                f"a reader process cannot start; it ended with status {status}",
                where=_MODULE,
                fix="What it printed above says why.",
            )
        self._readers[self._readers.index(reader)] = self._start()
        if not reader.tasks:
            return []
        guilty = reader.tasks.popleft()
        self._urgent.extendleft(reversed(reader.tasks))
        guilty.tries += 1
        if guilty.tries >= MAX_TRIES:
            return [Outcome(guilty.task, Crashed(status, guilty.tries))]
        self._urgent.appendleft(guilty)
        return []


def _anonymous_file(n_bytes: int) -> int:
    """A file descriptor of memory without a name: it is gone when the last process is."""
    if hasattr(os, "memfd_create"):
        # Not bound by the size of /dev/shm, which is 64 MB in many containers.
        descriptor = os.memfd_create("storm_clinic_tiles")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, n_bytes)
    return descriptor
