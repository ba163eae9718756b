"""Precision at each threshold and its average, under many case weights."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Floats


class PrecisionSteps:
    """Patients called at falling thresholds; equal risks share one threshold."""

    def __init__(self, event: Floats, risk: Floats) -> None:
        self._order = np.argsort(-risk, kind="stable")
        self._event = event[self._order]
        changes = np.flatnonzero(np.diff(risk[self._order]))
        self._last = np.append(changes, len(risk) - 1)  # of those called at each threshold

    def average(self, weights: Floats) -> Floats:
        """Average precision, (n_resamples,); NaN without an event."""
        ordered = weights[:, self._order]
        caught = np.cumsum(ordered * self._event, axis=1)[:, self._last]
        called = np.cumsum(ordered, axis=1)[:, self._last]
        precision = np.divide(caught, called, out=np.zeros_like(caught), where=called > 0)
        gained = np.diff(caught, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore"):
            return np.asarray((gained * precision).sum(axis=1) / caught[:, -1], dtype=np.float64)

    def influence(self) -> Floats:
        """How far each patient moves it, with every case weight 1."""
        n_events, called = self._event.sum(), self._last + 1.0
        caught = np.cumsum(self._event)[self._last]
        precision, gained = caught / called, np.diff(caught, prepend=0.0)
        value = gained @ precision / n_events
        # Whoever is called at a threshold is also called at every lower one.
        step = np.searchsorted(self._last, np.arange(len(self._order)))
        lifted = np.cumsum((gained / called)[::-1])[::-1][step]
        diluted = np.cumsum((gained * precision / called)[::-1])[::-1][step]
        influence = np.empty(len(self._order))
        influence[self._order] = self._event * (precision[step] - value + lifted) - diluted
        return np.asarray(influence / n_events, dtype=np.float64)
