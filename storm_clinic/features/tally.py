"""How far an extraction is: counts of slides and tiles for whoever draws the bars."""

from __future__ import annotations

from storm_clinic.progress import Progress


class Tally:
    """Counts slides and tiles, and extrapolates the tiles of slides that nobody has opened yet."""

    def __init__(self, n_slides: int, progress: Progress | None) -> None:
        self._progress = progress
        self._n_slides = n_slides
        self._slides_done = 0
        self._slides_planned = 0
        self._slides_without_tiles = 0
        self._tiles_planned = 0
        self._tiles_done = 0
        self._reported: dict[str, tuple[int, int]] = {}

    def planned(self, n_tiles: int) -> None:
        """A slide was opened and has so many tiles."""
        self._slides_planned += 1
        self._tiles_planned += n_tiles
        self.show()

    def encoded(self, n_tiles: int) -> None:
        """So many tiles are done."""
        self._tiles_done += n_tiles
        self.show()

    def finished(self, n_unencoded: int | None) -> None:
        """A slide is over, with so many of its tiles left undone; None if it was never planned."""
        self._slides_done += 1
        if n_unencoded is None:
            self._slides_without_tiles += 1
        else:
            self._tiles_planned -= n_unencoded
        self.show()

    def show(self) -> None:
        """Report both counts, where they have changed."""
        self._report("slides", self._slides_done, self._n_slides)
        if self._slides_planned:
            unopened = self._n_slides - self._slides_planned - self._slides_without_tiles
            expected = unopened * self._tiles_planned / self._slides_planned
            self._report("tiles", self._tiles_done, self._tiles_planned + round(expected))

    def _report(self, what: str, done: int, total: int) -> None:
        if self._progress is not None and self._reported.get(what) != (done, total):
            self._reported[what] = done, total
            self._progress(what, done, total)
