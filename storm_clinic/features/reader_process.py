"""A process that reads tiles: ``python -m storm_clinic.features.reader_process``.

Started by `ReaderPool` with two inherited file descriptors: a socket for tasks and replies, and
the shared memory that pixels go into. It ends when the socket closes, however its parent ended.
"""

from __future__ import annotations

import mmap
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import cv2
import numpy as np

from storm_clinic.errors import StormClinicError
from storm_clinic.features.tiling import ReaderSettings, Refused, Reply, Task, TileReader

READY = "ready"


def serve(connection: Connection, memory: int) -> None:
    """Answer tasks until the other end closes or sends None."""
    settings: ReaderSettings = connection.recv()
    shared = mmap.mmap(memory, settings.n_bytes)
    reader = TileReader(settings, np.frombuffer(shared, dtype=np.uint8).reshape(settings.shape))
    connection.send(READY)
    while (task := connection.recv()) is not None:
        connection.send(_answer(reader, task))


def _answer(reader: TileReader, task: Task) -> Reply:
    try:
        return reader.answer(task)
    except StormClinicError as error:
        return Refused(error)
    # A fault of the program met on one slide is reported with it; the batch goes on.
    except Exception as error:  # noqa: BLE001
        problem = StormClinicError(
            f"unexpected {type(error).__name__}: {error}", where=task.job.path
        )
        return Refused(problem, traceback.format_exc())


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    cv2.setNumThreads(1)  # there is one process a core already
    socket, memory = map(int, sys.argv[1:])
    with Connection(socket) as connection:
        try:
            serve(connection, memory)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent is gone


if __name__ == "__main__":
    _main()
