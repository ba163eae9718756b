"""Reading what others made in a process of its own, which may hang or die over a damaged file.

HDF5 keeps text of variable length in a heap without checksum and may follow a damaged one for ever;
our own files have none, those of other programs do.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from storm_clinic.errors import FeatureError, InputError
from storm_clinic.features.child_process import (
    START_S,
    Child,
    anonymous_memory,
    cannot_start,
    start_child,
)
from storm_clinic.features.lost_tasks import Crashed, Hung, TimeLimits

_MODULE = "storm_clinic.features.foreign_process"
Result = TypeVar("Result")


class ForeignReading:
    """A process in which functions read files, started when there is one to read.

    Use as a context manager, from one thread: the process ends with the thread that started it. On
    leaving, the process is gone.

    Parameters
    ----------
    limits : TimeLimits, optional
        Of which ``task_s`` is for one call.
    error : class of InputError
        What is raised of a file over which the process hung or died.
    """

    def __init__(
        self, limits: TimeLimits | None = None, *, error: type[InputError] = FeatureError
    ) -> None:
        self._limits = limits or TimeLimits()
        self._error = error
        self._child: Child | None = None
        self._memory = anonymous_memory(0)

    def call(self, function: Callable[..., Result], path: Path, **options: Any) -> Result:
        """What ``function(path, **options)`` returns, read in the process.

        Parameters
        ----------
        function : function
            Of a module, so that the process finds it by its name.
        path : Path
            The file.
        **options
            Small; they go through a socket.

        Raises
        ------
        InputError
            Of the class that was asked for, if the process hangs or dies, or the function fails in
            a way that nobody foresaw. The next call has another process.
        StormClinicError
            What the function raises, or if no process can be started.
        """
        child = self._running()
        try:
            child.link.send((function, path, options))
            self._await_ready(child)  # what it imports is not counted
            if not child.link.poll(_patience(self._limits.task_s)):
                raise self._lost(Hung(self._limits, tries=1), path)
            sizes = child.link.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._lost(Crashed(child.status(), tries=1), path) from None
        how, what = self._take(sizes)
        if how == "refused":
            raise what
        if how == "failed":
            raise self._error(what, where=path)
        result: Result = what
        return result

    def close(self) -> None:
        """End the process and give its memory back."""
        self._end()
        os.close(self._memory)

    def __enter__(self) -> ForeignReading:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _running(self) -> Child:
        """The process; another one where it was killed while it had nothing to do."""
        if self._child is not None and self._child.process.poll() is not None:
            self._end()
        return self._child or self._start()

    def _start(self) -> Child:
        child = self._child = start_child(_MODULE, self._memory)
        try:
            self._await_ready(child)
        except (EOFError, ConnectionResetError):
            status = child.status()
            self._end()
            raise cannot_start(_MODULE, f"it ended with status {status}") from None
        return child

    def _await_ready(self, child: Child) -> None:
        if not child.link.poll(START_S):
            self._end()
            raise cannot_start(_MODULE, f"it did nothing for {START_S:g} s")
        child.link.recv()  # READY; nothing else is said before

    def _lost(self, how: Crashed | Hung, path: Path) -> InputError:
        self._end()
        # What it may still write goes nowhere.
        before, self._memory = self._memory, anonymous_memory(0)
        os.close(before)
        return self._error(
            f"{how}; the file is likely damaged",
            where=path,
            fix="Make it again, or copy it again from where it is whole.",
        )

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def _take(self, sizes: list[int]) -> tuple[str, Any]:
        """The answer that lies in the memory, and the memory given back."""
        os.lseek(self._memory, 0, os.SEEK_SET)
        with open(self._memory, "rb", closefd=False) as file:
            frame, *arrays = (np.fromfile(file, np.uint8, size) for size in sizes)
        os.ftruncate(self._memory, 0)
        # Made by our own process, which unpickles nothing that it reads.
        how, what = pickle.loads(frame.data, buffers=arrays)  # noqa: S301
        return how, what


def _patience(limit_s: float) -> float | None:
    return None if math.isinf(limit_s) else limit_s
