"""A negative control: what a whole procedure finds when there is nothing to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats, Ints, Outcome
from storm_clinic.errors import StatisticsError, TrainingError
from storm_clinic.inference.optimism import finite, required
from storm_clinic.metrics.resampling import label_codes

_MAX_LOST = 0.05  # share of permutations that may fail before the rest would mislead


@dataclass(frozen=True, eq=False)
class PermutationNull:
    """What a procedure gives with permuted outcomes.

    Attributes
    ----------
    observed : float
        With the outcomes as they are.
    mean, upper : float
        Mean and 95th percentile with permuted outcomes.
    p : float
        (1 + permutations at least as high as observed) / (1 + permutations); never 0.
    draws : float64 array, shape (n_used,)
    n_lost : int
        Permutations without a number.
    method : str
    """

    observed: float
    mean: float
    upper: float
    p: float
    draws: Floats
    n_lost: int
    method: str


def permutation_null(
    procedure: Callable[[Outcome], float],
    outcome: Outcome,
    *,
    n: int = 200,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> PermutationNull:
    """Run a fit-and-score procedure with the outcomes dealt out anew among the patients.

    A mean away from what chance gives (0.5 for a C-index) shows a procedure that leaks; one near
    it, that ``observed`` may be compared with these draws.

    Parameters
    ----------
    procedure : callable
        Outcomes (in the patients' order) to a number, higher is better. It must do everything
        that looks at outcomes, from selection to scoring.
    outcome : Survival, CompetingRisks or Classes
        Times, events and entry times move together.
    n : int
        Permutations, at least 19 (so that p can reach 0.05).
    seed : int
        Equal seeds give equal permutations.
    strata : array, shape (n_patients,), optional
        Permute inside each stratum (fold, site) only.

    Raises
    ------
    StatisticsError
        If the procedure fails on the outcomes as they are, or on more than 5% of the permutations.

    References
    ----------
    Ojala & Garriga, J. Mach. Learn. Res. 11 (2010) 1833-1863. Phipson & Smyth, Stat. Appl. Genet.
    Mol. Biol. 9 (2010) 39 (p is never 0).
    """
    if n < 19:
        raise StatisticsError(f"{n} permutations", fix="Ask for at least 19.")
    codes = None if strata is None else label_codes(strata, outcome.n_patients, "strata")
    observed = required(lambda: procedure(outcome))
    rng = np.random.default_rng(seed)
    found, reasons = [], []
    for _ in range(n):
        try:
            found.append(finite(procedure(outcome.take(_shuffled(outcome.n_patients, codes, rng)))))
        except (StatisticsError, TrainingError) as error:
            reasons.append(str(error))
    if len(reasons) > _MAX_LOST * n:
        raise StatisticsError(
            f"{len(reasons)} of {n} permutations give no number: {reasons[0]}",
            fix="There are too few events for a negative control.",
        )
    draws = np.array(found)
    # Equal up to rounding counts as equal: sums in another order differ in the last digit.
    as_high = int((draws >= observed - 1e-12).sum())
    lost = f" ({len(reasons)} of them without a number)" if reasons else ""
    within = "" if strata is None else " within strata"
    return PermutationNull(
        observed,
        float(draws.mean()),
        float(np.quantile(draws, 0.95)),
        (1 + as_high) / (1 + len(draws)),
        draws,
        len(reasons),
        f"{n} permutations of outcomes{within}{lost}",
    )


def _shuffled(n_patients: int, codes: Ints | None, rng: np.random.Generator) -> Ints:
    if codes is None:
        return rng.permutation(n_patients)
    # Sorting by stratum, then by chance, pairs every patient with one of his own stratum.
    to = np.empty(n_patients, dtype=np.int64)
    to[np.argsort(codes, kind="stable")] = np.lexsort((rng.random(n_patients), codes))
    return to
