"""How many patients a model of known number of parameters needs (Riley's criteria).

Three criteria: expected shrinkage of at least 0.9, an apparent R² (Nagelkerke) at most 0.05 above
the true one, and the average risk known to ±0.05. They count the parameters of a regression before
any selection; for representations that are learned from images there is no such count.

References
----------
Riley et al., Stat. Med. 38 (2019) 1276-1296; BMJ 368 (2020) m441; Stat. Med. 40 (2021) 859-864
(R² from C). Pate et al., Stat. Methods Med. Res. 32 (2023) 555-571 (several classes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, norm

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.sample_size import (
    Criterion,
    SampleSize,
    Z,
    require_positive,
    require_share,
)

SHRINKAGE, OPTIMISM, MARGIN = 0.9, 0.05, 0.05
_GRID = np.linspace(-9, 9, 4001)  # standard deviations; the rest of a normal weighs below 1e-18


def binary_development(
    n_parameters: int,
    r2_cox_snell: float,
    event_share: float,
    *,
    shrinkage: float = SHRINKAGE,
    optimism: float = OPTIMISM,
    margin: float = MARGIN,
) -> SampleSize:
    """Patients needed to develop a logistic model.

    Parameters
    ----------
    n_parameters : int
        Candidate parameters, before any selection.
    r2_cox_snell : float
        Expected R² (Cox-Snell) of the model, between 0 and `greatest_r2`.
    event_share : float
        Share of patients with the event, between 0 and 1.
    shrinkage, optimism, margin : float
        Least shrinkage, largest optimism in Nagelkerke's R², half width of the average risk.

    Raises
    ------
    StatisticsError
        If a number lies outside its legal range.
    """
    share = require_share(event_share, "a share of events of")
    criteria = _overfitting(n_parameters, r2_cox_snell, greatest_r2(share), shrinkage, optimism)
    overall = math.ceil((Z / require_share(margin, "a margin of")) ** 2 * share * (1 - share))
    return SampleSize((*criteria, _overall(overall, margin)), share)


def survival_development(
    n_parameters: int,
    r2_cox_snell: float,
    *,
    rate: float,
    mean_follow_up: float,
    horizon: float,
    shrinkage: float = SHRINKAGE,
    optimism: float = OPTIMISM,
    margin: float = MARGIN,
) -> SampleSize:
    """Patients needed to develop a Cox model.

    Parameters
    ----------
    n_parameters, r2_cox_snell, shrinkage, optimism, margin
        As in `binary_development`.
    rate : float
        Events in a unit of follow-up, e.g. a month.
    mean_follow_up, horizon : float
        In that unit; the average risk is wanted at the horizon. Where the paper checks that risk at
        the size of the other criteria, the fewest patients that reach the margin on both sides of
        it are given here, for a constant rate.
    """
    rate = require_positive(rate, "a rate of")
    follow_up = require_positive(mean_follow_up, "a mean follow-up of")
    horizon = require_positive(horizon, "a horizon of")
    events = rate * follow_up
    criteria = _overfitting(
        n_parameters, r2_cox_snell, greatest_r2_survival(events), shrinkage, optimism
    )
    # The lower end lies further off: exp(-rate t) (exp(reach t) - 1) = margin.
    reach = math.log1p(require_share(margin, "a margin of") * math.exp(rate * horizon)) / horizon
    overall = math.ceil(Z**2 * rate / reach**2 / follow_up)
    return SampleSize((*criteria, _overall(overall, margin)), events)


def classes_development(
    n_parameters: int,
    class_shares: Sequence[float],
    pair_r2: Mapping[tuple[int, int], float],
    r2_nagelkerke: float,
    *,
    shrinkage: float = SHRINKAGE,
    optimism: float = OPTIMISM,
    margin: float = MARGIN,
) -> SampleSize:
    """Patients needed to develop a multinomial model.

    Parameters
    ----------
    n_parameters : int
        Candidate parameters of each of its equations.
    class_shares : sequence of float
        Share of patients of each class; they add up to 1.
    pair_r2 : mapping of (class, class) to float
        Expected R² (Cox-Snell) of a model that tells just those two apart, for each pair of
        positions, the smaller first.
    r2_nagelkerke : float
        Expected for the whole model, between 0 and 1.
    shrinkage, optimism, margin : float
        As in `binary_development`; the average risk of every class at once (Bonferroni).
    """
    shares = [require_share(share, "a share of") for share in class_shares]
    pairs = list(combinations(range(len(shares)), 2))
    if (
        len(shares) < 3
        or not math.isclose(sum(shares), 1, abs_tol=1e-6)
        or set(pair_r2) != {*pairs}
    ):
        raise StatisticsError(
            "shares of at least three classes that add up to 1, and an R² for each pair, are needed"
        )
    apart = max(
        _shrunk(n_parameters, pair_r2[a, b], shrinkage) / (shares[a] + shares[b]) for a, b in pairs
    )
    greatest = 1 - math.exp(2 * sum(share * math.log(share) for share in shares))
    r2 = require_share(r2_nagelkerke, "an R² (Nagelkerke) of") * greatest
    kept = r2 / (r2 + optimism * greatest)
    little = (len(shares) - 1) * _shrunk_exactly(n_parameters, r2, kept)
    z2 = float(chi2.isf(0.05 / len(shares), 1))
    overall = max(z2 * share * (1 - share) / margin**2 for share in shares)
    return SampleSize(
        (
            Criterion("shrinkage", math.ceil(apart), _shrinkage_target(shrinkage)),
            Criterion("optimism", math.ceil(little), _optimism_target(optimism)),
            _overall(math.ceil(overall), margin),
        ),
        min(shares),
    )


def expected_shrinkage(n_patients: int, n_parameters: int, r2_cox_snell: float) -> float:
    """Shrinkage that so many patients and parameters lead to; 1 is none, 0.9 is usually asked.

    The converse of the first criterion: it needs exactly ``n_patients`` for this shrinkage. 0 where
    even the largest shrinkage would not save the model.
    """
    r2 = require_share(r2_cox_snell, "an R² (Cox-Snell) of")
    n = require_positive(n_patients, "a number of patients of")

    def surplus(s: float) -> float:
        return _shrunk_exactly(n_parameters, r2, s) - n

    lowest, highest = r2 * (1 + 1e-9), 1 - 1e-12
    if surplus(lowest) > 0:
        return 0.0
    return float(brentq(surplus, lowest, highest)) if surplus(highest) > 0 else 1.0


def greatest_r2(event_share: float) -> float:
    """Largest R² (Cox-Snell) that a binary outcome allows."""
    share = require_share(event_share, "a share of events of")
    return 1 - math.exp(2 * (share * math.log(share) + (1 - share) * math.log1p(-share)))


def greatest_r2_survival(events_per_patient: float) -> float:
    """Largest R² (Cox-Snell) of a survival outcome with so many events a patient."""
    events = require_positive(events_per_patient, "a number of events a patient of")
    return 1 - math.exp(2 * (events * math.log(events) - events))


def r2_from_c(c: float, event_share: float) -> float:
    """R² (Cox-Snell) of a logistic model with this C, if its predictor is normal in both groups.

    Where Riley et al. (2021) simulate, the integral is computed: with the event the predictor is
    N(m, 1), else N(0, 1), with m = sqrt(2) * probit(C).

    Parameters
    ----------
    c : float
        Between 0.5 and 1.
    event_share : float
        Between 0 and 1.
    """
    if not 0.5 < c < 1:
        raise StatisticsError(f"a C of {c:g}", fix="Legal are values between 0.5 and 1.")
    share = require_share(event_share, "a share of events of")
    m = math.sqrt(2) * float(norm.ppf(c))
    x = _GRID + np.where(np.arange(2)[:, None] == 1, m, 0.0)
    log_odds = math.log(share / (1 - share)) + m * x - m**2 / 2
    log_likelihood = np.stack([-np.logaddexp(0, log_odds[0]), -np.logaddexp(0, -log_odds[1])])
    weights = norm.pdf(_GRID) / norm.pdf(_GRID).sum()
    without, with_event = log_likelihood @ weights
    null = share * math.log(share) + (1 - share) * math.log1p(-share)
    return float(1 - math.exp(-2 * (share * with_event + (1 - share) * without - null)))


def _overfitting(
    n_parameters: int, r2: float, greatest: float, shrinkage: float, optimism: float
) -> tuple[Criterion, Criterion]:
    if not 0 < r2 < greatest:
        raise StatisticsError(
            f"an R² (Cox-Snell) of {r2:g}",
            fix=f"With this share of events values between 0 and {greatest:.3f} are possible.",
        )
    kept = r2 / (r2 + require_share(optimism, "an optimism of") * greatest)
    return (
        Criterion(
            "shrinkage",
            math.ceil(_shrunk(n_parameters, r2, shrinkage)),
            _shrinkage_target(shrinkage),
        ),
        Criterion(
            "optimism", math.ceil(_shrunk(n_parameters, r2, kept)), _optimism_target(optimism)
        ),
    )


def _shrunk(n_parameters: int, r2: float, shrinkage: float) -> int:
    return math.ceil(_shrunk_exactly(n_parameters, r2, shrinkage))


def _shrunk_exactly(n_parameters: int, r2: float, shrinkage: float) -> float:
    """Patients for this shrinkage, not rounded (van Houwelingen & le Cessie's heuristic)."""
    if n_parameters < 1:
        raise StatisticsError(f"{n_parameters} parameters", fix="At least one is needed.")
    if not r2 < require_share(shrinkage, "a shrinkage of"):
        raise StatisticsError(f"a shrinkage of {shrinkage:g} is not above the R² of {r2:g}")
    return n_parameters / ((shrinkage - 1) * math.log1p(-r2 / shrinkage))


def _shrinkage_target(shrinkage: float) -> str:
    return f"expected shrinkage of at least {shrinkage:g}"


def _optimism_target(optimism: float) -> str:
    return f"apparent R² at most {optimism:g} above the true one"


def _overall(n_patients: int, margin: float) -> Criterion:
    return Criterion("overall risk", n_patients, f"average risk known to ±{margin:g}")
