"""A process that reads what others made: ``python -m storm_clinic.features.foreign_process``.

Started by `ForeignReading`. It answers one call after the other and may hang or die over any.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from storm_clinic.errors import StormClinicError
from storm_clinic.features.child_process import READY, serve_parent


def serve(link: Connection[Any, Any], memory: int) -> None:
    """Answer calls until the other end closes."""
    link.send(READY)
    while True:
        function, path, options = link.recv()  # which imports the function's module
        if path.suffix == ".pt":
            import torch  # noqa: F401 - takes seconds, which are not the file's
        link.send(READY)
        link.send(_put(_answer(function, path, options), memory))


def _answer(function: Callable[..., Any], path: Path, options: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "returned", function(path, **options)
    except StormClinicError as error:
        return "refused", error
    # What damage makes a library raise is not all foreseen; the batch goes on.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return "failed", f"unexpected {type(error).__name__}: {error}"


def _put(answer: tuple[str, Any], memory: int) -> list[int]:
    """Write an answer into the memory, arrays beside the rest; the length of each part.

    Nothing of it goes through the socket, so that its reader never waits for half an answer.
    """
    arrays: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(answer, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(frame), *(array.raw() for array in arrays)]
    os.lseek(memory, 0, os.SEEK_SET)
    with open(memory, "wb", closefd=False) as file:
        for part in parts:
            file.write(part)
    return [part.nbytes for part in parts]


if __name__ == "__main__":
    serve_parent(serve)
