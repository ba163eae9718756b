"""What cross-validation gives: predictions for everybody by models that never saw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.heads.contract import ModelOutput
from storm_clinic.heads.tuning import TunedFit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FoldRecord:
    """What happened in one outer fold.

    Attributes
    ----------
    repeat, fold : int
        From 0.
    n_train, n_train_events, n_test, n_test_events : int
        Patients, and those with the event (of classes: of the last level).
    fit : TunedFit
        The model trained without this fold, and how it was chosen.
    notes : tuple of str
        What was unusual about the tested patients.

    How long the fit took, ``fit.seconds``, is not part of `as_dict`: it differs where nothing else
    does.
    """

    repeat: int
    fold: int
    n_train: int
    n_train_events: int
    n_test: int
    n_test_events: int
    fit: TunedFit
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All but the model, ready for JSON."""
        own = {name: value for name, value in vars(self).items() if name not in ("fit", "notes")}
        chosen = self.fit.as_dict()
        return own | chosen | {"notes": [*chosen["notes"], *self.notes]}


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions for every patient by models that never saw them, once a repeat.

    Attributes
    ----------
    keys : tuple of str, length n_patients
    fold : int64 array, shape (n_repeats, n_patients)
        Test fold of each patient.
    risk : float64 array, shape (n_repeats, n_patients)
    probabilities : dict of str to float64 array, shape (n_repeats, n_patients)
    records : tuple of FoldRecord
        By repeat, then fold.
    """

    keys: tuple[str, ...]
    fold: Ints
    risk: Floats
    probabilities: dict[str, Floats]
    records: tuple[FoldRecord, ...]

    def table(self) -> pd.DataFrame:
        """Columns ``patient_key, repeat, fold, risk`` and probabilities; repeat after repeat."""
        n_repeats, n_patients = self.fold.shape
        columns: dict[str, Any] = {
            "patient_key": list(self.keys) * n_repeats,
            "repeat": np.repeat(np.arange(n_repeats), n_patients),
            "fold": self.fold.ravel(),
            "risk": self.risk.ravel(),
        }
        return pd.DataFrame(columns | {k: v.ravel() for k, v in self.probabilities.items()})


def assemble(
    keys: tuple[str, ...], fold: Ints, results: list[tuple[FoldRecord, ModelOutput]]
) -> OutOfFold:
    """Put the predictions of each fold at the places of its patients."""
    risk = np.full(fold.shape, np.nan)
    probabilities = {name: np.full(fold.shape, np.nan) for name in results[0][1].probabilities}
    for record, output in results:
        tested = fold[record.repeat] == record.fold
        risk[record.repeat, tested] = output.risk
        for name, values in output.probabilities.items():
            probabilities[name][record.repeat, tested] = values
    return OutOfFold(keys, fold, risk, probabilities, tuple(record for record, _ in results))
