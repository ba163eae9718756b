"""Ranking where another event can come first: Wolbers' C, and who is weighted how after it.

Whoever had a competing event will never have the event of interest: such a patient stays, for
all that follows, among those who should have had the lower risk. How long censoring would have let
us see that is unknown, so the patient counts with the chance of being still followed, given that
he was when the competing event came: G(t-)/G(T-), as in Fine and Gray's model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import CompetingRisks, Floats, Ints
from storm_clinic.errors import NoComparablePairs
from storm_clinic.metrics.censoring import GSlope, Uncensored
from storm_clinic.metrics.inputs import all_causes, as_risk
from storm_clinic.metrics.ordered_pairs import Side
from storm_clinic.metrics.pairs import ComparablePairs, PairSums
from storm_clinic.metrics.resampling import label_codes
from storm_clinic.metrics.uncertainty import Statistic

_BLOCK_PAIRS = 4_000_000


def wolbers_concordance(
    outcome: CompetingRisks,
    risk: ArrayLike,
    *,
    tau_months: float | None = None,
    within: ArrayLike | None = None,
    uncensored: bool = False,
) -> Statistic:
    """Wolbers' C: had the patient with the event of interest a higher risk than those without it?

    An event of the cause of interest at t is compared with everybody who is event-free and followed
    beyond t, and with everybody whose competing event came at t or before, weighted by G(t-)/G(T-).
    Without competing events it is Harrell's C, or Uno's with ``uncensored``.

    Parameters
    ----------
    outcome : CompetingRisks, length n_patients
        Without entry times.
    risk : float array, shape (n_patients,)
        Higher means that the cause of interest is more likely.
    tau_months : float, optional
        Only events before this time open a pair.
    within : array, shape (n_patients,), optional
        Compare patients of one fold only; G is that of all.
    uncensored : bool
        Weight each pair by 1/G(t-)^2 too, so that censoring drops out.

    Returns
    -------
    Statistic
        G is estimated anew in each resample, and its standard error knows that G was estimated.

    Raises
    ------
    NoComparablePairs
        If no event of the cause of interest before ``tau_months`` has anybody to be compared with.
    StatisticsError
        If there are entry times, or ``tau_months`` lies where everybody was censored.

    References
    ----------
    Wolbers et al., Biostatistics 15 (2014) 526-539. Wolbers et al., Epidemiology 20 (2009) 555-561.
    Fine & Gray, JASA 94 (1999) 496-509.
    """
    pairs = _Pairs(outcome, as_risk(risk, outcome), tau_months, within, uncensored)
    found = pairs.value_and_influence()
    if found is None:
        raise NoComparablePairs(
            f"no two of {outcome.n_patients} patients can be compared: {outcome.n_events} events "
            f"of {outcome.causes[0]!r}"
            + ("" if tau_months is None else f", counted before {tau_months:g} months")
        )

    def under(weights: Floats) -> Floats:
        credit, number = pairs.under(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(credit / number, dtype=np.float64)

    method = (
        f"Wolbers' C for {outcome.causes[0]}"
        f"{'' if tau_months is None else f', events before {tau_months:g} months'}"
        f"{', censoring weights' if uncensored else ''}"
        f"{', pairs within folds' if within is not None else ''}"
    )
    value, influence = found
    return Statistic(
        value,
        outcome.n_patients,
        outcome.n_events,
        method,
        under,
        influence,
        "logit",
        pairs.n_openers - 1,
    )


class Lingering:
    """Patients after a competing event, and the weight they still carry at later times.

    Attributes
    ----------
    at : int64 array, shape (n_competing,)
        Positions in the cohort, by time.
    time : float64 array, shape (n_competing,)
        When the competing event came, in months.
    """

    def __init__(self, outcome: CompetingRisks) -> None:
        at = np.flatnonzero(outcome.cause > 1)
        self.at: Ints = at[np.argsort(outcome.time_months[at], kind="stable")]
        self.time = outcome.time_months[self.at]
        self._uncensored = Uncensored(all_causes(outcome), None)

    def followed(self, weights: Floats, months: Floats) -> Floats:
        """G(t-) at some months, (n_resamples, n_months)."""
        return self._uncensored.just_before(self._uncensored.curve(weights), months)

    def influence(self, slope: GSlope) -> Floats:
        """How far each patient moves a number through G, with every weight 1."""
        return self._uncensored.influence(slope)

    def inverse(self, weights: Floats) -> Floats:
        """1/G(T-) of each of them, (n_resamples, n_competing); 0 where G is 0."""
        g = self.followed(weights, self.time)
        return np.divide(1.0, g, out=np.zeros_like(g), where=g > 0)


class _Pairs:
    """Pairs of an event of interest with whoever outlived it, or had a competing event by then."""

    def __init__(
        self,
        outcome: CompetingRisks,
        risk: Floats,
        tau_months: float | None,
        within: ArrayLike | None,
        uncensored: bool,
    ) -> None:
        one = outcome.cause_specific()
        eligible = one.event & (one.time_months < (np.inf if tau_months is None else tau_months))
        n = outcome.n_patients
        self._stratum = np.zeros(n, np.int64) if within is None else label_codes(within, n, "folds")
        # Competing events count as censored here: those at or after an event are its pairs.
        self._outliving = ComparablePairs(one, risk, eligible, self._stratum)
        self._lingering = Lingering(outcome)
        self._opening: Ints = np.flatnonzero(eligible)
        self.n_openers = len(self._opening)
        self._time, self._risk, self._weighted = one.time_months, risk, uncensored
        self._rank: Ints = np.unique(risk, return_inverse=True)[1].astype(np.int64)
        if uncensored:
            Uncensored(all_causes(outcome), None).require_positive(one.time_months[eligible])

    def under(self, weights: Floats) -> tuple[Floats, Floats]:
        """Credit (1 concordant, 1/2 tied risk) and weight of all pairs, each (n_resamples,)."""
        followed = self._lingering.followed(weights, self._time)
        opened: Floats | None = None
        if self._weighted:
            opened = np.divide(1.0, followed**2, out=np.zeros_like(followed), where=followed > 0)
        credit, number = self._outliving.resampled(weights, opened)
        kept = weights[:, self._lingering.at] * self._lingering.inverse(weights)
        openers = weights * followed * (1.0 if opened is None else opened)
        rows = max(1, _BLOCK_PAIRS // max(1, len(self._lingering.at)))
        for start in range(0, len(self._opening), rows):
            event = self._opening[start : start + rows]
            concordant, met = self._compare(event)
            credit += np.einsum("be,be->b", openers[:, event], kept @ concordant.T)
            number += np.einsum("be,be->b", openers[:, event], kept @ met.T)
        return credit, number

    def value_and_influence(self) -> tuple[float, Floats] | None:
        """C and how far each patient moves it, with every weight 1; None without pairs."""
        gone, ones = self._lingering.at, np.ones((1, len(self._time)))
        followed = self._lingering.followed(ones, self._time)[0]
        opens = np.ones_like(followed)
        if self._weighted:
            opens = np.divide(1.0, followed**2, out=np.zeros_like(followed), where=followed > 0)
        kept = np.zeros_like(followed)
        kept[gone] = self._lingering.inverse(ones)[0]
        outliving = self._outliving.sums(opens)
        lingering = self._lingering_sums(opens * followed, kept)
        number = opens @ outliving.opened_pairs + opens * followed @ lingering.opened_pairs
        if not number > 0:
            return None
        somers_d = (opens @ outliving.opened + opens * followed @ lingering.opened) / number
        first, later = (
            (sums.opened - somers_d * sums.opened_pairs, sums.waited - somers_d * sums.waited_pairs)
            for sums in (outliving, lingering)
        )
        share = 1 / number / 2
        opened, opened_later = opens * first[0] * share, opens * followed * later[0] * share
        stayed = kept * later[1] * share
        by_g = opened_later - stayed - 2 * self._weighted * (opened + opened_later)
        through_g = self._lingering.influence(GSlope(self._time, by_g))
        influence = opened + opened_later + first[1] * share + stayed + through_g
        return float((1 + somers_d) / 2), np.asarray(influence, dtype=np.float64)

    def _lingering_sums(self, opens: Floats, kept: Floats) -> PairSums:
        """Pairs of an event with an earlier competing one, within strata; seen backwards in time.

        Those at the very time of the event were counted among the outliving.
        """
        total = PairSums(*(np.zeros(len(self._time)) for _ in range(4)))
        backwards = np.unique(-self._time, return_inverse=True)[1].astype(np.int64)
        for code in np.unique(self._stratum[self._opening]):
            events, gone = (
                at[self._stratum[at] == code] for at in (self._opening, self._lingering.at)
            )
            events, gone = (at[np.argsort(backwards[at], kind="stable")] for at in (events, gone))
            total.add(
                Side(backwards[events], self._rank[events], opens[events]),
                Side(backwards[gone], self._rank[gone], kept[gone]),
                events,
                gone,
            )
        return total

    def _compare(self, event: Ints) -> tuple[Floats, Floats]:
        """Credit and presence of each pair of these events with an earlier competing event."""
        other = self._lingering.at
        # Those at the very time of the event were counted among the outliving.
        met = (self._lingering.time[None, :] < self._time[event][:, None]) & (
            self._stratum[other][None, :] == self._stratum[event][:, None]
        )
        own, theirs = self._risk[event][:, None], self._risk[other][None, :]
        credit = (theirs < own) + 0.5 * (theirs == own)
        return credit * met, met.astype(np.float64)
