"""How well numbers tell from which hospital a patient came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedKFold

from storm_clinic.cohort.outcome import Classes, Floats, Ints
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.classes import macro_auroc
from storm_clinic.metrics.uncertainty import Interval

FEWEST_PATIENTS = 10  # of a site, to tell it from others
_FOLDS = 5
_BLOCK_VALUES = 4_000_000  # scores held at once: 32 MB

_Smoother = tuple[Ints, Ints, Floats]  # patients trained on, patients scored, (scored, trained on)


@dataclass(frozen=True)
class Probe:
    """How well sites were told.

    Attributes
    ----------
    auroc : Interval
        Macro AUROC of each site against the rest, out of fold; 0.5 is chance.
    p : float
        Share of permutations of the sites that did as well, the observed one among them.
    n_patients, n_sites : int
    """

    auroc: Interval
    p: float
    n_patients: int
    n_sites: int


def probe_sites(
    features: ArrayLike, sites: ArrayLike, *, seed: int, permutations: int = 200
) -> Probe:
    """Tell sites from features by ridge regression on indicators, out of fold.

    Five folds with the same share of each site; sites are permuted inside folds, which keeps these
    shares and gives an exact test of "features say nothing about the site". Features are
    standardised inside the folds; the penalty is the number of features, as for a prior share of
    explained variance of one half.

    Parameters
    ----------
    features : float array, shape (n_patients, n_features)
        Finite.
    sites : int array, shape (n_patients,)
        0, 1, ... without a gap; each site with ten patients or more.
    seed : int
        Of folds and permutations.
    permutations : int
        How often the sites are shuffled.

    Raises
    ------
    StatisticsError
        If there are fewer than two sites, one is too small, or a feature is missing.

    References
    ----------
    Howard et al., Nat. Commun. 12 (2021) 4423 (site signatures in histology).
    """
    x = np.asarray(features, dtype=np.float64)
    codes = np.asarray(sites, dtype=np.int64)
    n_sites = int(codes.max()) + 1 if len(codes) else 0
    if n_sites < 2:
        raise StatisticsError(f"{n_sites} site", fix="Two are needed to tell one from another.")
    if x.ndim != 2 or len(x) != len(codes) or not np.isfinite(x).all():
        raise StatisticsError("features must be finite, one row a patient")
    smallest = int(np.bincount(codes, minlength=n_sites).min())
    if smallest < FEWEST_PATIENTS:
        raise StatisticsError(
            f"a site with {smallest} patients", fix=f"Leave out sites below {FEWEST_PATIENTS}."
        )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    tests = [test for _, test in folds.split(x, codes)]
    shuffled = _permuted(codes, tests, permutations, np.random.default_rng(seed))
    smoothers = [_smoother(x, test) for test in tests]
    rows = max(1, _BLOCK_VALUES // (len(x) * n_sites))
    areas, own = np.empty(len(shuffled)), np.empty((len(x), n_sites))
    for first in range(0, len(shuffled), rows):
        block = shuffled[first : first + rows]
        scores = _out_of_fold(smoothers, block, n_sites)
        areas[first : first + rows] = _macro_areas(scores, block, n_sites)
        if first == 0:
            own = scores[:, 0]
    labelled = Classes(codes, tuple(f"site {k}" for k in range(n_sites)))
    interval = macro_auroc(labelled, _as_shares(own)).interval()
    p = float((areas >= areas[0] - 1e-12).mean())
    return Probe(interval, p, len(codes), n_sites)


def _permuted(
    codes: Ints, tests: Sequence[Ints], permutations: int, rng: np.random.Generator
) -> Ints:
    """The sites as they are, and shuffled inside folds, (1 + permutations, n_patients)."""
    rows = np.tile(codes, (permutations + 1, 1))
    for test in tests:
        rows[1:, test] = rng.permuted(rows[1:, test], axis=1)
    return rows


def _smoother(x: Floats, test: Ints) -> _Smoother:
    """Ridge regression as the matrix that takes any targets of a fold's others to its scores."""
    train = np.setdiff1d(np.arange(len(x)), test)
    center, spread = x[train].mean(axis=0), x[train].std(axis=0)
    # A constant feature tells nothing, and rounding must not make it say something.
    varies = spread > 1e-12 * np.maximum(np.abs(center), 1.0)
    z = (x[:, varies] - center[varies]) / spread[varies]
    penalty, known, asked = float(x.shape[1]), z[train], z[test]
    if len(known) <= known.shape[1]:
        inner = known @ known.T + penalty * np.eye(len(known))
        return train, test, np.asarray(solve(inner, known @ asked.T, assume_a="pos").T)
    inner = known.T @ known + penalty * np.eye(known.shape[1])
    return train, test, np.asarray(asked @ solve(inner, known.T, assume_a="pos"))


def _out_of_fold(smoothers: Sequence[_Smoother], codes: Ints, n_sites: int) -> Floats:
    """Scores of each site under each shuffling, (n_patients, n_shufflings, n_sites)."""
    targets = (codes.T[:, :, None] == np.arange(n_sites)).astype(np.float64)
    flat = targets.reshape(codes.shape[1], -1)
    found = np.empty_like(flat)
    for train, test, matrix in smoothers:
        found[test] = flat[train].mean(axis=0) + matrix @ flat[train]
    return np.asarray(found.reshape(targets.shape), dtype=np.float64)


def _macro_areas(scores: Floats, codes: Ints, n_sites: int) -> Floats:
    """Mean over sites of the area under the curve, a shuffling at a time."""
    ranks = rankdata(scores, axis=0)
    member = codes.T[:, :, None] == np.arange(n_sites)
    n_in = member.sum(axis=0)
    won = (ranks * member).sum(axis=0) - n_in * (n_in + 1) / 2
    return np.asarray((won / (n_in * (len(scores) - n_in))).mean(axis=1), dtype=np.float64)


def _as_shares(scores: Floats) -> Floats:
    """Scores, which sum to 1 a patient, brought inside [0, 1]; the order in a column is kept."""
    even = 1 / scores.shape[1]
    furthest = float(np.abs(scores - even).max())
    shrunk = (scores - even) * (min(1.0, even / furthest) if furthest else 1.0)
    return np.asarray(even + shrunk, dtype=np.float64)
