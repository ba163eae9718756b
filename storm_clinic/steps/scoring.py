"""Predictions of a bundle's models for patients whose outcomes it does not see."""

from __future__ import annotations

import numpy as np
import pandas as pd

from storm_clinic.bundle import Bundle
from storm_clinic.features.contract import FeatureContract
from storm_clinic.heads.contract import ModelOutput
from storm_clinic.predictions import Predictions
from storm_clinic.steps.study_patients import StudyPatients

NOT_CROSS_VALIDATED = -1


def score_patients(bundle: Bundle, patients: StudyPatients) -> tuple[Predictions, tuple[str, ...]]:
    """Risks and probabilities of every model in the bundle; and what was unusual about the data.

    Raises
    ------
    ContractMismatch
        If the features were made in another way than those the model learned from.
    """
    for store, contract in (
        (patients.store, bundle.manifest.features),
        (patients.storm, bundle.manifest.storm),
    ):
        if store is not None:
            learned_on = FeatureContract.from_json(contract, where="manifest.json")
            store.contract.require_same(learned_on, where=store.folder)
    tables, notes = [], []
    for name in bundle.models:
        output = bundle.restore(name).predict(patients.data)
        notes += [f"{name}: {note}" for note in output.notes]
        fold = np.full(len(patients), NOT_CROSS_VALIDATED, dtype=np.int64)
        tables.append(
            prediction_table(
                [patients.cohort.name] * len(patients),
                patients.keys,
                name,
                output,
                repeat=0,
                fold=fold,
            )
        )
    # By key: the order of the ids would tell something about them.
    table = pd.concat(tables).sort_values(["model", "patient_key"], ignore_index=True)
    return Predictions(table), tuple(notes)


def prediction_table(
    cohorts: list[str],
    keys: tuple[str, ...],
    model: str,
    output: ModelOutput,
    *,
    repeat: int,
    fold: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> pd.DataFrame:
    """Rows of one model and repeat, as `Predictions` holds them."""
    return pd.DataFrame(
        {
            "cohort": cohorts,
            "patient_key": list(keys),
            "model": model,
            "repeat": repeat,
            "fold": fold,
            "risk": output.risk,
            **output.probabilities,
        }
    )
