"""Interleaved timing of callables, and the markdown section that shows it.

Every benchmark compares ways of doing the same work inside one run: all of them once, then all
of them once more, so that a machine that grows slower in between slows every one of them. What is
reported is a ratio of medians; the least and the greatest ratio of one repetition stand beside it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Timings:
    """Wall seconds of each repetition, by name; the lists are as long as each other.

    Attributes
    ----------
    seconds : mapping of str to tuple of float
        Repetition ``i`` of every name was measured next to repetition ``i`` of the others.
    """

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        return median(self.seconds[name])

    def ratio(self, peer: str, ours: str) -> Ratio:
        """How many times longer ``peer`` takes than ``ours``."""
        pairs = zip(self.seconds[peer], self.seconds[ours], strict=True)
        each = [slow / fast for slow, fast in pairs]
        return Ratio(self.median(peer) / self.median(ours), min(each), max(each))


@dataclass(frozen=True)
class Ratio:
    """Ratio of medians, and the extremes of the ratios of single repetitions."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:  # of a single round
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f}..{self.high:.2f})"


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, repetitions: int = 5, warm_up: int = 1
) -> Timings:
    """Wall seconds of each call, round by round; every second round runs in reverse order.

    Parameters
    ----------
    calls : mapping of str to callable
        Each does the same work in its own way.
    repetitions : int
        Rounds that are timed.
    warm_up : int
        Rounds before them that are not: caches filled, code compiled.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(-warm_up, repetitions):
        names = list(calls) if round_number % 2 == 0 else list(calls)[::-1]
        for name in names:
            start = time.perf_counter()
            calls[name]()
            if round_number >= 0:
                taken[name].append(time.perf_counter() - start)
    return Timings({name: tuple(values) for name, values in taken.items()})


def machine() -> str:
    """Processor, cores that this process may use, memory, and operating system."""
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        named = [ln for ln in cpu_info.read_text().splitlines() if ln.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    memory = ""
    if hasattr(os, "sysconf"):
        gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        memory = f", {gib:.0f} GiB of memory"
    return f"{model}, {cores} cores{memory}, {platform.system()}"


def versions(packages: Iterable[str]) -> str:
    """Python's version and those of the named distributions, on one line."""
    parts = [f"Python {platform.python_version()}"]
    for name in packages:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"{name} (not installed)")
    return ", ".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; numbers should arrive as text, rounded by the caller."""
    lines = [list(header), ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def section(title: str, *, packages: Iterable[str], body: Sequence[str]) -> str:
    """A markdown section: title, machine, versions, then each part of ``body`` as a paragraph."""
    facts = f"- machine: {machine()}\n- versions: {versions(packages)}"
    return "\n\n".join([f"## {title}", facts, *body]) + "\n"
