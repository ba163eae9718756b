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
        Seconds for one task: to open a slide, to read one batch of tiles, or to look at or read one
        file that another program made.
    slide_s : float
        Seconds for all reading of one slide, summed over readers; encoding does not count.
    actor_s : float
        On a cluster: seconds for one slide in an actor, reading, encoding and all; an actor with
        a parcel of several has as many times that.
    """

    task_s: float = 600.0
    slide_s: float = 6 * 3600.0
    actor_s: float = 24 * 3600.0

    def __post_init__(self) -> None:
        if not all(limit > 0 for limit in (self.task_s, self.slide_s, self.actor_s)):  # nor NaN
            raise InputError(
                f"must be above 0, are {self.task_s:g} s, {self.slide_s:g} s and "
                f"{self.actor_s:g} s",
                where="time limits",
            )


@dataclass(frozen=True)
class Crashed:
    """Every process that was given the task died; the last ended with this status."""

    status: int
    tries: int

    def __str__(self) -> str:
        how = f"by signal {-self.status}" if self.status < 0 else f"with status {self.status}"
        if self.tries == 1:
            return f"a reader process died on it, {how}"
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
        if self.tries == 1:
            return f"a reader process hung on it for {self.limits.task_s:g} s"
        return f"{self.tries} reader processes hung on it, the last for {self.limits.task_s:g} s"
