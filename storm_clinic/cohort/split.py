"""Folds of patients: sites stay whole, events are spread, one seed gives one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storm_clinic.cohort.fold_search import arrange_groups, deal, relabel
from storm_clinic.errors import CohortError, OutcomeError
from storm_clinic.files import digest_value, parse_json, write_json

Ints = NDArray[np.int64]

_FORMAT = "storm-clinic-splits"
_NO_SITE = "(no site)"


@dataclass(frozen=True, eq=False)
class Splits:
    """In which fold each patient is tested, once a repeat.

    Attributes
    ----------
    keys : tuple of str, length n_patients
    fold : int64 array, shape (n_repeats, n_patients)
        From 0; folds of a repeat are numbered without gaps.
    notes : tuple of str
        Where the design differs from what was asked for, and why. May name sites, no patients.
    seed : int
    """

    keys: tuple[str, ...] = field(repr=False)
    fold: Ints = field(repr=False)
    notes: tuple[str, ...] = ()
    seed: int = 0
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if self.fold.ndim != 2 or self.fold.shape[1] != len(self.keys):
            raise CohortError(f"folds of shape {self.fold.shape} for {len(self.keys)} patients")
        if len(set(self.keys)) < len(self.keys):
            raise CohortError("a patient stands twice among the keys of the splits")
        folds = dict(zip(self.keys, self.fold.T.tolist(), strict=True))
        object.__setattr__(self, "digest", digest_value(folds))

    @property
    def n_repeats(self) -> int:
        return int(self.fold.shape[0])

    def with_keys(self, keys: Mapping[str, str]) -> Splits:
        """The same folds under other names, in their order (for files that hold no ids)."""
        order = sorted(range(len(self.keys)), key=lambda at: keys[self.keys[at]])
        names = tuple(keys[self.keys[at]] for at in order)
        return Splits(names, self.fold[:, order], self.notes, self.seed)

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for JSON; described in docs/formats.md."""
        return {
            "format": _FORMAT,
            "format_version": 1,
            "seed": self.seed,
            "notes": list(self.notes),
            "keys": list(self.keys),
            "fold": self.fold.tolist(),
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Splits:
        """Rebuild from `to_json`.

        Raises
        ------
        CohortError
            If it is something else, or the digest does not fit.
        """
        if value.get("format") != _FORMAT or value.get("format_version") != 1:
            raise CohortError(f"not a file of splits ({_FORMAT}, version 1)")
        try:
            fold = np.asarray(value["fold"], dtype=np.int64)
            splits = cls(tuple(value["keys"]), fold, tuple(value["notes"]), int(value["seed"]))
        except (KeyError, TypeError, ValueError) as problem:
            raise CohortError(f"splits are damaged: {problem!r}") from problem
        if splits.digest != value.get("digest"):
            raise CohortError("splits were changed: their digest does not fit")
        return splits

    def write(self, path: Path) -> None:
        """Write splits.json atomically."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Splits:
        """Read splits.json.

        Raises
        ------
        CohortError
            If the file is absent, no JSON, or not what `write` wrote.
        """
        try:
            value = parse_json(path.read_text(encoding="utf-8"))
            return cls.from_json(value if isinstance(value, dict) else {})
        except (OSError, ValueError) as problem:
            raise CohortError(f"cannot be read: {problem}", where=path) from problem
        except CohortError as problem:
            raise CohortError(problem.problem, where=path, fix=problem.fix) from problem


def make_splits(
    keys: Sequence[str],
    strata: ArrayLike,
    groups: ArrayLike | None,
    *,
    folds: int,
    repeats: int,
    seed: int,
    required: Sequence[int] = (1,),
) -> Splits:
    """Assign every patient to one test fold a repeat.

    Groups (sites) are never divided. Among the assignments that keep them whole, those are sought
    in which every fold has its share of patients and of every stratum. The result depends on the
    keys, not on their order. Where the design asked for cannot be had, the nearest honest one is
    made and ``notes`` says so:

    - a site larger than a fold's share makes a larger fold;
    - with fewer sites (that have events) than folds, there are fewer folds: in the end
      leave-one-site-out;
    - with events at one site only, folds divide patients and not sites;
    - with fewer events than folds, there are fewer folds;
    - where fewer arrangements exist than repeats, there are fewer repeats.

    Parameters
    ----------
    keys : sequence of str, length n_patients
        The patients.
    strata : int array, shape (n_patients,)
        As `outcome.stratum` gives.
    groups : array of str, shape (n_patients,), optional
        None divides patients; a patient without a group (None, NaN, "") joins the others without.
    folds, repeats : int
        At least 2 and 1.
    seed : int
        Of the shuffling.
    required : sequence of int
        Strata that every fold must hold, as `outcome.required_strata` gives.

    Raises
    ------
    CohortError
        If lengths differ, a key stands twice, or folds or repeats are too few.
    OutcomeError
        If a required stratum has fewer than two patients: no two folds can hold it.
    """
    strata = np.asarray(strata, dtype=np.int64)
    names = None if groups is None else _group_names(groups)
    _check(keys, strata, names, folds, repeats)
    _check_required(strata, required)
    order = np.asarray(sorted(range(len(keys)), key=lambda at: keys[at]))
    notes: list[str] = []
    sorted_names = None if names is None else [names[at] for at in order]
    design = _Design(strata[order], tuple(required), folds, repeats, seed, notes)
    ordered = None if sorted_names is None else _grouped(design, sorted_names)
    if ordered is None:
        ordered = _ungrouped(design)
    fold = np.empty_like(ordered)
    fold[:, order] = ordered
    return Splits(tuple(keys), fold, tuple(notes), seed)


@dataclass(frozen=True)
class _Design:
    """What was asked for, patients in the order of their keys."""

    strata: Ints
    required: tuple[int, ...]
    folds: int
    repeats: int
    seed: int
    notes: list[str]


def _ungrouped(design: _Design) -> Ints:
    fewest = min(int((design.strata == stratum).sum()) for stratum in design.required)
    folds = min(design.folds, fewest)
    if folds < design.folds:
        design.notes.append(
            f"{folds} folds instead of {design.folds}: only {fewest} patients are of a stratum "
            "that every fold needs"
        )
    rngs = (np.random.default_rng([design.seed, repeat]) for repeat in range(design.repeats))
    return np.stack([relabel(deal(design.strata, folds, rng)) for rng in rngs])


def _grouped(design: _Design, names: list[str]) -> Ints | None:
    """Folds of whole groups; None (and a note) where they cannot be had."""
    labels, group = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    if len(labels) == len(names):
        return None
    present = np.unique(design.strata)
    counts = np.stack(
        [np.bincount(group[design.strata == s], minlength=len(labels)) for s in present], 1
    )
    needed = np.isin(present, design.required)
    carrying = int((counts[:, needed] > 0).sum(axis=0).min())
    for folds in range(min(design.folds, carrying), 1, -1):
        found = arrange_groups(counts, needed, folds, design.repeats, design.seed)
        if found:
            _note_groups(design, labels, counts.sum(axis=1), folds, carrying, len(found))
            return np.stack([relabel(fold_of_group[group]) for fold_of_group in found])
    design.notes.append(
        f"folds divide patients, not sites: {carrying} of {len(labels)} sites "
        f"{'has' if carrying == 1 else 'have'} events, too few to hold out whole sites"
    )
    return None


def _note_groups(
    design: _Design, labels: NDArray[Any], sizes: Ints, folds: int, carrying: int, n_found: int
) -> None:
    total = int(sizes.sum())
    if _NO_SITE in labels:
        n = int(sizes[labels == _NO_SITE].sum())
        design.notes.append(f"{n} patients without a site are kept together as if they were one")
    if folds < design.folds:
        kind = "leave-one-site-out, " if folds == len(labels) else ""
        design.notes.append(
            f"{kind}{folds} folds instead of {design.folds}: {carrying} of {len(labels)} sites "
            "have events, and every fold needs some"
        )
    large = [
        f"{labels[at]} ({sizes[at]} of {total} patients)"
        for at in np.argsort(-sizes, kind="stable")
        if sizes[at] * folds > total
    ]
    if large and folds < len(labels):
        design.notes.append(
            f"more than a fold's share of one in {folds}: {', '.join(large)}; "
            "folds with such a site are larger than the others"
        )
    if n_found < design.repeats:
        design.notes.append(
            f"{n_found} repeat{'s' if n_found > 1 else ''} instead of {design.repeats}: "
            "these sites allow no other arrangement"
        )


def _group_names(groups: ArrayLike) -> list[str]:
    values = np.asarray(groups, dtype=object).tolist()
    return [_NO_SITE if value in (None, "") or value != value else str(value) for value in values]


def _check(
    keys: Sequence[str], strata: Ints, names: list[str] | None, folds: int, repeats: int
) -> None:
    if folds < 2 or repeats < 1:
        raise CohortError(f"{folds} folds and {repeats} repeats: at least 2 and 1 are needed")
    n_groups = len(keys) if names is None else len(names)
    if strata.shape != (len(keys),) or n_groups != len(keys):
        raise CohortError(f"{len(keys)} keys, {len(strata)} strata and {n_groups} groups")
    if len(set(keys)) < len(keys):
        raise CohortError("a patient stands twice among the keys to be split")


def _check_required(strata: Ints, required: Sequence[int]) -> None:
    for stratum in required:
        n = int((strata == stratum).sum())
        if n < 2:
            raise OutcomeError(
                f"{n} of {len(strata)} patients {'is' if n == 1 else 'are'} of stratum {stratum} "
                "(the event, or a class), but every fold needs one",
                fix="Cross-validation needs at least two; choose an endpoint with more events.",
            )
