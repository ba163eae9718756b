"""Cases against controls, ranked by risk: areas under many case weights."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Bools, Floats


class RankedCases:
    """Cases and controls of one stratum, sorted by risk, for areas under many weights."""

    def __init__(self, risk: Floats, case: Bools, control: Bools, member: Bools) -> None:
        self.case = np.flatnonzero(case & member)
        controls = np.flatnonzero(control & member)
        self.control = controls[np.argsort(risk[controls], kind="stable")]
        ranked = risk[self.control]
        self.below = np.searchsorted(ranked, risk[self.case], side="left")
        self.not_above = np.searchsorted(ranked, risk[self.case], side="right")

    def placements(self, control_weights: Floats) -> Floats:
        """Weight of the controls below each case, ties one half: (n_resamples, n_cases)."""
        total = np.cumsum(control_weights[:, self.control], axis=1)
        total = np.concatenate([np.zeros((len(total), 1)), total], axis=1)
        return np.asarray(0.5 * (total[:, self.below] + total[:, self.not_above]))

    def exceeded_by(self, case_weights: Floats) -> Floats:
        """Weight of the cases above each control, ties one half, (n_controls,) by risk."""
        own, at = case_weights[self.case], len(self.control) + 1
        above, touching = (
            np.cumsum(np.bincount(edge, weights=own, minlength=at)[::-1])[::-1][1:]
            for edge in (self.below, self.not_above)
        )
        return np.asarray(0.5 * (above + touching))

    def delong(self) -> Floats:
        """Influences whose squares sum to DeLong's variance, and products to his covariance.

        They need two cases and two controls.
        """
        n = len(self.case) + len(self.control)
        influence = np.zeros(n)
        m, k = len(self.case), len(self.control)
        ones = np.ones(n)
        by_case, by_control = self.placements(ones[None])[0] / k, self.exceeded_by(ones) / m
        area = by_case.mean()
        influence[self.case] = (by_case - area) / np.sqrt(m * (m - 1))
        influence[self.control] = (by_control - area) / np.sqrt(k * (k - 1))
        return influence


def area(ranked: list[RankedCases], case_weights: Floats, control_weights: Floats) -> Floats:
    credit, pairs = np.zeros(len(control_weights)), np.zeros(len(control_weights))
    for part in ranked:
        cases = case_weights[:, part.case]
        credit += (cases * part.placements(control_weights)).sum(axis=1)
        pairs += cases.sum(axis=1) * control_weights[:, part.control].sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(credit / pairs, dtype=np.float64)


def area_slopes(
    ranked: list[RankedCases], case_weights: Floats, control_weights: Floats
) -> tuple[Floats, Floats]:
    """Derivatives of `area` by the logarithm of each patient's weight, as a case and as a control.

    All arrays (n_patients,).
    """
    value = area(ranked, case_weights[None], control_weights[None])[0]
    as_case, as_control = np.zeros_like(case_weights), np.zeros_like(control_weights)
    pairs = 0.0
    for part in ranked:
        cases, controls = case_weights[part.case], control_weights[part.control]
        n_cases, n_controls = cases.sum(), controls.sum()
        pairs += n_cases * n_controls
        placed = part.placements(control_weights[None])[0]
        as_case[part.case] = cases * (placed - value * n_controls)
        as_control[part.control] = controls * (part.exceeded_by(case_weights) - value * n_cases)
    return as_case / pairs, as_control / pairs
