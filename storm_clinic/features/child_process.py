"""Processes of this program that may crash or hang, and the memory that they share with it.

They are started with ``python -m``, not by `multiprocessing`: a user's script needs no
``if __name__ == "__main__"``, and what it imports (torch) is not imported again in each of them.
Each inherits two file descriptors: a socket for what is asked and answered, and memory for what is
large. It ends when its parent does, however that is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from storm_clinic.errors import StormClinicError

READY = "ready"  # what a child says first
START_S = 300.0  # after which one that has not said so never will
PATIENCE_S = 3.0
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@dataclass(eq=False)
class Child:
    """A process, and our end of its socket."""

    process: subprocess.Popen[bytes]
    link: connection.Connection[Any, Any]

    def status(self) -> int:
        """How it ended, of one that has closed its socket; it is killed if it lives on."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def end(self) -> None:
        """Kill it. One that waits for a dead disk goes when the disk answers, not before."""
        self.link.close()
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)


def start_child(module: str, memory: int) -> Child:
    """Run a module, whose ``__main__`` calls `serve_parent`, with a file descriptor of memory."""
    ours, theirs = connection.Pipe()
    # So that it finds this package however this process found it.
    found_by = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    with theirs:
        passed = (theirs.fileno(), memory)
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, passed), str(os.getpid())],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": found_by, "OMP_NUM_THREADS": "1"},
        )
    return Child(process, ours)


def cannot_start(module: str, how: str) -> StormClinicError:
    """The error of a child that never said that it is ready."""
    return StormClinicError(
        f"a reader process cannot start; {how}",
        where=module,
        fix="What it printed above says why.",
    )


def anonymous_memory(n_bytes: int) -> int:
    """A file descriptor of memory without a name: it is gone when the last process is."""
    if hasattr(os, "memfd_create"):
        # Not bound by the size of /dev/shm, which is 64 MB in many containers.
        descriptor = os.memfd_create("storm_clinic")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, n_bytes)
    return descriptor


def serve_parent(serve: Callable[[connection.Connection[Any, Any], int], None]) -> None:
    """What a child does: answer on the socket, with the memory, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    socket, memory, parent = map(int, sys.argv[1:])
    _end_with(parent)
    with (
        connection.Connection(socket) as link,
        suppress(EOFError, BrokenPipeError, ConnectionResetError),
    ):
        serve(link, memory)


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent, even while a library loops for ever.

    Other systems than Linux cannot; there the process ends when it next looks at its socket.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before
            sys.exit()
