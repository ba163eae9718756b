"""How fits in other processes are seen stage by stage while they go on.

A fit appends a line a stage to a file; a thread of the driver reads what was appended. Nobody waits
for anybody: a process that is killed leaves a shorter file, and a driver that is killed leaves
fits that end by themselves.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from storm_clinic.files import storage_errors

_EVERY_S = 1.0  # between two looks


@dataclass(frozen=True)
class Sighting:
    """One stage of a fit that is under way.

    Attributes
    ----------
    repeat, fold : int
        From 0; both 0 for a fit on all patients.
    setting : int
        Which combination of settings, from 1; 0 for the refit with those that were chosen.
    n_settings : int
        How many are tried.
    stage : int
        From 1.
    loss : float
        Training loss; averaged over inner folds where settings are tried. NaN where there is none.
    held_out : float, optional
        Log-likelihood of held-out patients as in `storm_clinic.heads.tuning.InnerResult`; None in
        the refit.
    """

    repeat: int
    fold: int
    setting: int
    n_settings: int
    stage: int
    loss: float
    held_out: float | None


# Called from a thread of its own about once a second, with what was seen since.
Watch = Callable[[Sequence[Sighting]], None]


@dataclass(frozen=True)
class Teller:
    """Leaves sightings of one fit where its watcher reads them; goes to other processes.

    Attributes
    ----------
    path : Path, optional
        The file; None where nobody watches.
    repeat, fold, setting, n_settings : int
        As in `Sighting`.
    """

    path: Path | None = None
    repeat: int = 0
    fold: int = 0
    setting: int = 0
    n_settings: int = 1

    def trying(self, setting: int, n_settings: int) -> Teller:
        """The same for one combination of settings."""
        return replace(self, setting=setting, n_settings=n_settings)

    def __call__(self, stage: int, loss: float, held_out: float | None = None) -> None:
        """Tell of one stage."""
        if self.path is None:
            return
        at = (self.repeat, self.fold, self.setting, self.n_settings)
        line = json.dumps([*at, stage, loss, held_out]) + "\n"
        # One short write at the end of the file: lines of several processes do not mix.
        with storage_errors(self.path), self.path.open("a") as file:
            file.write(line)


class Watched:
    """Fits that somebody watches, or nobody."""

    def __init__(self, folder: Path | None, reading: Future[None] | None) -> None:
        self._folder = folder
        self._reading = reading

    def teller(self, repeat: int = 0, fold: int = 0) -> Teller:
        """For one of the fits."""
        path = None if self._folder is None else self._folder / f"{repeat}-{fold}.jsonl"
        return Teller(path, repeat, fold)

    def check(self) -> None:
        """Raise what the watcher raised, if it did."""
        if self._reading is not None and self._reading.done():
            self._reading.result()


@contextmanager
def watched_by(watch: Watch | None) -> Iterator[Watched]:
    """Have fits that are made in here watched; every stage was handed over when this ends."""
    if watch is None:
        yield Watched(None, None)
        return
    over = threading.Event()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(1) as thread:
        reading = thread.submit(_follow, Path(scratch), watch, over)
        try:
            yield Watched(Path(scratch), reading)
        finally:
            over.set()
        reading.result()


def _follow(folder: Path, watch: Watch, over: threading.Event) -> None:
    read: dict[Path, int] = {}
    ending = False
    while not ending:
        ending = over.wait(_EVERY_S)
        seen = [sight for path in sorted(folder.iterdir()) for sight in _appended(path, read)]
        if seen:
            watch(seen)


def _appended(path: Path, read: dict[Path, int]) -> list[Sighting]:
    """Whole lines that were not there before."""
    with path.open("rb") as file:
        file.seek(read.get(path, 0))
        lines, ending, _ = file.read().rpartition(b"\n")
    read[path] = read.get(path, 0) + len(lines) + len(ending)
    return [Sighting(*json.loads(line)) for line in lines.splitlines()]
