"""A process that reads tiles: ``python -m storm_clinic.features.reader_process``.

Started by `ReaderPool`, which shares the memory that pixels go into.
"""

from __future__ import annotations

import mmap
import traceback
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from storm_clinic.errors import StormClinicError
from storm_clinic.features.child_process import READY, serve_parent
from storm_clinic.features.tiling import ReaderSettings, Refused, Reply, Task, TileReader


def serve(connection: Connection[Any, Any], memory: int) -> None:
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


if __name__ == "__main__":
    cv2.setNumThreads(1)  # there is one process a core already
    serve_parent(serve)
