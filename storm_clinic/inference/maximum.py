"""The maximum of a log-concave likelihood by Newton's method, and why there may be none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError

_MAX_STEPS = 60
_ROUNDING = 1e-9  # of the Newton decrement: below it, a step that gains nothing is rounding
_SETTLED = 1e-6, 1e-4  # absolute and relative length of the last step
_DEPENDENT = 1e-9  # share of a standardised column that others do not explain
_FLAT = 1e-12  # of the largest information: a column that never varies among those at risk
_SINGULAR = 1e13  # condition of an information matrix above which it is that of dependent columns
_COLLAPSED = 1e-6  # share of the information at zero that is left where there is a maximum


class Derivatives(NamedTuple):
    """Log-likelihood, its gradient and its negative second derivative."""

    value: float
    gradient: Floats
    information: Floats


class Maximum(NamedTuple):
    """Where a likelihood is largest, and its derivatives there and at zero."""

    at: Floats
    there: Derivatives
    at_zero: Derivatives


def as_design(design: ArrayLike, n_patients: int, names: Sequence[str]) -> Floats:
    """Check a design matrix: one row a patient, finite, no constant and no dependent column.

    Raises
    ------
    StatisticsError
        Naming the columns at fault.
    """
    matrix = np.asarray(design, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape != (n_patients, len(names)):
        raise StatisticsError(
            f"a design of shape {matrix.shape} for {n_patients} patients and {len(names)} names",
            fix="One row a patient and one column a name are needed.",
        )
    if not len(names):
        raise StatisticsError("a regression without a covariate has no coefficient to estimate")
    lost = ~np.isfinite(matrix)
    if lost.any():
        column = names[int(np.flatnonzero(lost.any(axis=0))[0])]
        raise StatisticsError(
            f"{int(lost.any(axis=1).sum())} patients lack a value, the first column is {column!r}",
            fix="Leave out incomplete patients, or impute them before.",
        )
    spread = np.ptp(matrix, axis=0)
    if (spread == 0).any():
        constant = [name for name, s in zip(names, spread, strict=True) if s == 0]
        raise StatisticsError(
            f"{_listed(constant)} is the same in all {n_patients} patients",
            fix="Leave it out: what does not vary has no coefficient.",
        )
    _require_independent(matrix, names)
    return matrix


def _require_independent(matrix: Floats, names: Sequence[str]) -> None:
    standard = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    left = np.abs(np.diag(np.linalg.qr(standard, mode="r"))) / np.sqrt(len(matrix))
    left = np.append(left, np.zeros(max(len(names) - len(left), 0)))
    dependent = [name for name, x in zip(names, left, strict=True) if x < _DEPENDENT]
    if dependent:
        raise StatisticsError(
            f"{_listed(dependent)} follows from the other covariates of {len(matrix)} patients",
            fix="Leave it out: its coefficient cannot be told apart from theirs.",
        )


def maximise(
    evaluate: Callable[[Floats], Derivatives], n: int, names: Sequence[str], what: str
) -> Maximum:
    """Climb from zero by Newton steps, halved until they gain.

    Parameters
    ----------
    evaluate : callable
        Coefficients of comparable scale, shape (n,), to derivatives; ``-inf`` where it overflows.
    n : int
        Coefficients.
    names : sequence of str
        Of the coefficients, for messages.
    what : str
        The model, for messages.

    Raises
    ------
    StatisticsError
        If there is no finite maximum (a covariate separates the outcomes), or covariates cannot
        be told apart.
    """
    at = np.zeros(n)
    at_zero = here = evaluate(at)
    for _ in range(_MAX_STEPS):
        step = _solve(here, at_zero, names, what)
        decrement = float(here.gradient @ step)
        there = evaluate(at + step)
        while not there.value > here.value and decrement > _ROUNDING:
            step = step / 2
            if np.abs(step).max() < 1e-10:
                break
            there = evaluate(at + step)
        at, here = at + step, there
        if decrement > _ROUNDING:
            continue
        # Towards a maximum at infinity the gain fades, and steps do not.
        _require_curved(here, at_zero, names, what)
        if (np.abs(step) <= _SETTLED[0] + _SETTLED[1] * np.abs(at)).all():
            return Maximum(at, here, at_zero)
    raise _separated(here, at_zero, names, what)


def _solve(here: Derivatives, at_zero: Derivatives, names: Sequence[str], what: str) -> Floats:
    own = np.diag(at_zero.information)
    still = own <= _FLAT * own.max()
    scale = np.sqrt(np.where(still, 1.0, own))
    if still.any() or np.linalg.cond(at_zero.information / np.outer(scale, scale)) > _SINGULAR:
        flat = [name for name, s in zip(names, still, strict=True) if s]
        raise StatisticsError(
            f"{what} cannot tell {_listed(flat or names)} apart from the rest: nobody at risk "
            "together differs in it",
            fix="Leave it out, or fit it without strata.",
        )
    try:
        return np.asarray(np.linalg.solve(here.information, here.gradient))
    except np.linalg.LinAlgError:
        raise _separated(here, at_zero, names, what) from None


def _require_curved(
    here: Derivatives, at_zero: Derivatives, names: Sequence[str], what: str
) -> None:
    shares = np.linalg.eigvals(np.linalg.solve(at_zero.information, here.information)).real
    if shares.min() < _COLLAPSED:
        raise _separated(here, at_zero, names, what)


def _separated(
    here: Derivatives, at_zero: Derivatives, names: Sequence[str], what: str
) -> StatisticsError:
    """Name what lies along the direction in which the likelihood has gone flat."""
    ratio = np.linalg.solve(at_zero.information, here.information)
    values, vectors = np.linalg.eig(ratio)
    along = np.abs(vectors[:, int(np.argmin(values.real))].real)
    flat = [name for name, x in zip(names, along, strict=True) if x > 0.5 * along.max()]
    return StatisticsError(
        f"{what} has no maximum: {_listed(flat)} separates patients with from those without "
        "the event",
        fix="Leave it out or join its rare levels; the data say only that its effect is large.",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
