"""When a task is given up: its readers died, or took longer than they may."""

from __future__ import annotations

from dataclasses import dataclass

from storm_clinic.errors import InputError

MAX_TRIES = 3


@dataclass(frozen=True)
class TimeLimits:
    """How long readers may take before they are taken to hang, and are ended.

    Attributes
    ----------
    task_s : float
        Seconds for one task: to open a slide, or to read one batch of tiles.
    slide_s : float
        Seconds for all reading of one slide, summed over readers; encoding does not count. On a
        cluster an actor that is not done with a slide after twice that, encoding and all, is
        taken to hang as a whole.
    """

    task_s: float = 600.0
    slide_s: float = 6 * 3600.0

    @property
    def in_actor_s(self) -> float:
        """Seconds for one slide in an actor, whatever it does with it."""
        return 2 * self.slide_s

    def __post_init__(self) -> None:
        if not (self.task_s > 0 and self.slide_s > 0):
            raise InputError(
                f"must be above 0, are {self.task_s:g} s and {self.slide_s:g} s",
                where="time limits",
            )


@dataclass(frozen=True)
class Crashed:
    """Every process that was given the task died; the last ended with this status."""

    status: int
    tries: int

    def __str__(self) -> str:
        how = f"by signal {-self.status}" if self.status < 0 else f"with status {self.status}"
        return f"{self.tries} reader processes died on it, the last {how}"


@dataclass(frozen=True)
class Hung:
    """Readers did not come back with the task in time and were ended; ``tries`` of them."""

    limits: TimeLimits
    tries: int
    whole_slide: bool = False

    def __str__(self) -> str:
        if self.whole_slide:
            return f"reading it was not done after {self.limits.slide_s:g} s in all"
        return f"{self.tries} reader processes hung on it, the last for {self.limits.task_s:g} s"
