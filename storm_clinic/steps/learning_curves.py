"""What is seen of a model's fits while they go on: curves in MLflow, and words for the progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from storm_clinic.errors import StorageError
from storm_clinic.heads.watching import Sighting
from storm_clinic.progress import Progress, with_note
from storm_clinic.tracking import Metric, RunLog

_EVERY_ONE_UNTIL = 64  # steps; then every second one up to 128, every fourth up to 256, ...


class Watcher:
    """Watches the fits of one model; see `storm_clinic.heads.watching.Watch`.

    Parameters
    ----------
    model : str
        Its name.
    say : callable
        Told of each fold: settings tried, with the stage and the held-out likelihood as a note.
    run : RunLog, optional
        Where curves are logged; refits on all patients have none.

    Attributes
    ----------
    cut_short : StorageError, optional
        Why curves end before the fits: a training does not fail for want of a curve.
    """

    def __init__(self, model: str, say: Progress, run: RunLog | None = None) -> None:
        self.cut_short: StorageError | None = None
        self._model = model
        self._say = say
        self._run = run
        self._walked: dict[tuple[int, int], int] = {}
        self._over: set[str] = set()

    def __call__(self, seen: Sequence[Sighting]) -> None:
        """Log what was seen, and say where each fit is now."""
        points = [point for sighting in seen for point in self._points(sighting)]
        if self._run is not None and points and self.cut_short is None:
            try:
                self._run.log_points(points)
            except StorageError as error:
                self.cut_short = error
        for where, sighting in {self._where(s): s for s in seen}.items():
            if where not in self._over:
                tried = sighting.n_settings if sighting.setting == 0 else sighting.setting - 1
                self._say(self._described(sighting), tried, sighting.n_settings + 1)

    def finished(self, where: str) -> None:
        """The fit of that fold, or on all patients, is over."""
        self._over.add(where)
        self._say(with_note(f"{self._model}, {where}", "fitted"), 1, 1)

    def tags(self) -> dict[str, str]:
        """What the run should say of its curves: nothing where they are whole."""
        return {} if self.cut_short is None else {"curves": f"cut short: {self.cut_short}"}

    def _where(self, sighting: Sighting) -> str:
        if self._run is None:
            return "all patients"
        return f"repeat {sighting.repeat + 1}, fold {sighting.fold + 1}"

    def _described(self, sighting: Sighting) -> str:
        note = f"refit, stage {sighting.stage}"
        if sighting.held_out is not None:
            which = f"setting {sighting.setting} of {sighting.n_settings}"
            note = f"{which}, stage {sighting.stage}, held-out {sighting.held_out:.3f}"
        return with_note(f"{self._model}, {self._where(sighting)}", note)

    def _points(self, sighting: Sighting) -> Iterator[Metric]:
        """Points of the curves; their step counts stages through all settings of the fold."""
        curve = f"r{sighting.repeat + 1}_f{sighting.fold + 1}"
        if sighting.held_out is None:
            values = {"refit_loss": sighting.loss}
            step = sighting.stage
        else:
            values = {"train_loss": sighting.loss, "held_out": sighting.held_out}
            at = (sighting.repeat, sighting.fold)
            step = self._walked[at] = self._walked.get(at, 0) + 1
        if step % _stride(step) == 0:
            for name, value in values.items():
                if value == value:  # a head without a loss says NaN
                    yield Metric(f"{curve}/{name}", value, step)


def _stride(step: int) -> int:
    """Distance of the points at a step: 114 points for 200 steps, 256 for 4,000."""
    doublings = (step - 1).bit_length() - (_EVERY_ONE_UNTIL - 1).bit_length()
    return int(2 ** max(0, doublings))
