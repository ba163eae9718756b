"""Extraction by a Ray cluster: one actor a GPU, or a share of a machine's cores.

An actor does with a few slides at a time what one machine does with all (`extract_known`), and
writes into the shared store by renaming. This process deals slides out and keeps the count: an
actor has one parcel in work and one waiting, so that whatever is lost with it is little and known.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from storm_clinic.errors import FeatureError, SlideError, StormClinicError
from storm_clinic.features.extraction import stored_slides
from storm_clinic.features.file_reader import read_header
from storm_clinic.features.lost_tasks import MAX_TRIES, TimeLimits
from storm_clinic.features.ray_actor import Extractor, SharedWork
from storm_clinic.features.slide_result import SlideResult, failed_slide
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.tiling import SlideJob, Stored
from storm_clinic.progress import Progress

_PARCELS_AN_ACTOR = 2
_SLIDES_A_PARCEL = 8
_LOOK_S = 2.0
# A cluster that grows on demand takes minutes to find a machine.
_LONELY_S = 600.0


def extract_on_ray(
    ray: Any, jobs: Sequence[SlideJob], work: SharedWork, *, progress: Progress | None = None
) -> list[SlideResult]:
    """Extract slides on a cluster; the same files, and on CPUs the same bytes, as on one machine.

    A slide whose actor or machine is lost is given to another, alone, at most `MAX_TRIES` times.

    Parameters
    ----------
    ray : module
        Connected; see `connected`.
    jobs : sequence of SlideJob
        Each id once; paths are absolute and mean the same on all machines.
    work : SharedWork
        The store's contract must have been settled.
    progress : function, optional
        Called with "slides", how many are done and how many there are.

    Returns
    -------
    list of SlideResult
        In the order of the jobs.

    Raises
    ------
    StorageError, EncoderError
        As `extract_slides`, of any machine.
    StormClinicError
        If no machine is left, or one cannot do the work.
    """
    dispatch = _Dispatch(ray, jobs, work, progress)
    try:
        return dispatch.run()
    finally:
        dispatch.dismiss()


@dataclass(eq=False)
class _Actor:
    handle: Any
    ready: bool = False
    parcels: deque[Sequence[SlideJob]] = field(default_factory=deque)
    since: float = 0.0  # at its first parcel

    def is_overdue(self, limits: TimeLimits) -> bool:
        """Whether its parcel takes longer than it may. Who waits for a place has none."""
        took = time.monotonic() - self.since
        return bool(self.parcels) and took > len(self.parcels[0]) * limits.actor_s


class _Dispatch:
    """Who works on what; what to do when something ends."""

    def __init__(
        self, ray: Any, jobs: Sequence[SlideJob], work: SharedWork, progress: Progress | None
    ) -> None:
        self._ray, self._jobs, self._work, self._progress = ray, jobs, work, progress
        self._store = FeatureStore(work.folder, work.contract)
        self._stored = stored_slides(self._store)
        self._remote = ray.remote(Extractor).options(
            num_cpus=work.share.cores, num_gpus=int(work.share.gpu), max_restarts=0
        )
        self._todo = deque(jobs)
        self._again: deque[SlideJob] = deque()
        self._tries: Counter[str] = Counter()
        self._results: dict[str, SlideResult] = {}
        self._actors: list[_Actor] = []
        self._calls: dict[Any, _Actor] = {}
        self._rescued: set[str] = set()  # written by actors that were lost
        self._failed_starts = 0
        self._room = 0
        self._looked = -_LOOK_S
        self._last_seen = time.monotonic()

    def run(self) -> list[SlideResult]:
        self._show()
        while len(self._results) < len(self._jobs):
            self._hire()
            self._deal()
            ended, _ = self._ray.wait(list(self._calls), timeout=_LOOK_S)
            for call in ended:
                self._take(call, self._calls.pop(call))
            if not ended:  # what has ended is taken first, however long nobody looked
                self._give_up_hanging()
        return [self._results[job.slide_id] for job in self._jobs]

    def dismiss(self) -> None:
        """End all actors; their readers end with them."""
        for actor in self._actors:
            self._ray.kill(actor.handle)

    def _hire(self) -> None:
        """Start as many actors as there are places and slides; one at least, to be waited for."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._room = sum(map(self._work.share.fits, nodes))
        if self._room or any(actor.ready for actor in self._actors):
            self._last_seen = now
        if now - self._last_seen > _LONELY_S:
            share = self._work.share
            raise StormClinicError(
                f"no machine of the cluster has {share.cores} cores{' and a GPU' * share.gpu}",
                where="ray",
                fix="Start one, or ask for less (OMP_NUM_THREADS), and run the same again.",
            )
        waiting = len(self._todo) + len(self._again)
        idle = sum(not actor.parcels for actor in self._actors)
        wanted = min(max(self._room, 1) - len(self._actors), waiting - idle)
        for _ in range(wanted):
            actor = _Actor(self._remote.remote())
            self._actors.append(actor)
            self._calls[actor.handle.prepare.remote(self._work)] = actor

    def _deal(self) -> None:
        for load in range(_PARCELS_AN_ACTOR):
            for actor in self._actors:
                if actor.ready and len(actor.parcels) == load and (self._todo or self._again):
                    self._send(actor, self._next_parcel())

    def _next_parcel(self) -> Sequence[SlideJob]:
        if self._again:
            return [self._again.popleft()]
        fair = len(self._todo) // (2 * _PARCELS_AN_ACTOR * len(self._actors))
        n_slides = max(1, min(fair, _SLIDES_A_PARCEL))
        return [self._todo.popleft() for _ in range(n_slides)]

    def _give_up_hanging(self) -> None:
        """Readers have limits of their own; this is for whatever else may not come back."""
        limits = self._work.limits or TimeLimits()
        for actor in [one for one in self._actors if one.is_overdue(limits)]:
            self._ray.kill(actor.handle)
            self._lose(actor, f"it took more than {limits.actor_s:g} s a slide")

    def _send(self, actor: _Actor, parcel: Sequence[SlideJob]) -> None:
        if not actor.parcels:
            actor.since = time.monotonic()
        ids = [job.slide_id for job in parcel]
        stored = {name: self._stored[name] for name in ids if name in self._stored}
        actor.parcels.append(parcel)
        self._calls[actor.handle.extract.remote(parcel, stored)] = actor

    def _take(self, call: Any, actor: _Actor) -> None:
        if actor not in self._actors:
            return  # it was lost, and this call with it
        try:
            found = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StormClinicError):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayError as error:
            self._lose(actor, str(error).strip().partition("\n")[0], error)
            return
        if not actor.ready:
            actor.ready = True
            self._failed_starts = 0
            return
        actor.parcels.popleft()
        actor.since = time.monotonic()
        for result in found:
            self._finish(result)

    def _lose(self, actor: _Actor, how: str, cause: Exception | None = None) -> None:
        """An actor is gone; the slides that it was at count one try more, those behind none."""
        self._actors.remove(actor)
        if not actor.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_TRIES:
                raise StormClinicError(f"actors cannot start: {how}", where="ray") from cause
        if not actor.parcels:
            return
        for parcel in list(actor.parcels)[1:]:
            self._todo.extendleft(reversed(parcel))
        for job in actor.parcels[0]:
            self._tries[job.slide_id] += 1
            self._learn(job)
            if self._tries[job.slide_id] < MAX_TRIES:
                self._again.append(job)
                continue
            problem = f"{MAX_TRIES} actors were lost on it; set aside. The last: {how}"
            self._finish(failed_slide(job.slide_id, job.path, SlideError(problem, where=job.path)))

    def _learn(self, job: SlideJob) -> None:
        """See whether the actor had written a slide before it was lost."""
        path = self._store.path(job.slide_id)
        if job.slide_id not in self._stored and path.exists():
            try:
                header = read_header(path, self._work.contract)
            except FeatureError:
                return  # no file of ours; it is made anew
            self._stored[job.slide_id] = Stored(header.slide_digest, header.slide_mpp)
            self._rescued.add(job.slide_id)

    def _finish(self, result: SlideResult) -> None:
        if result.status == "unchanged" and result.slide_id in self._rescued:
            header = read_header(self._store.path(result.slide_id), self._work.contract)
            result = replace(
                result, status="written", n_tiles=header.n_tiles, n_failed_tiles=header.n_failed
            )
        self._results[result.slide_id] = result
        self._show()

    def _show(self) -> None:
        if self._progress is not None:
            self._progress("slides", len(self._results), len(self._jobs))
