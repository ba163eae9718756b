"""Rows of risk: patients read, scored batch by batch, and described; see docs/scoring.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from storm_clinic.heads.contract import PatientData
from storm_clinic.progress import Progress
from storm_clinic.steps.score_inputs import bags_of
from storm_clinic.steps.score_request import ScoreRequest
from storm_clinic.steps.score_slides import FoundSlides
from storm_clinic.steps.score_stream import ReadPatient, batches, read_patients
from storm_clinic.steps.scorer import NO_SPREAD, Scored, Scorer

Row = dict[str, Any]


class ScoredRows:
    """Rows of a request, made batch by batch."""

    def __init__(self, scorer: Scorer, request: ScoreRequest, found: FoundSlides) -> None:
        self._scorer, self._request, self._found = scorer, request, found
        self._same = _about_model(scorer)

    @property
    def notices(self) -> tuple[str, ...]:
        """Slides that nobody asked for, as a count."""
        asked = {slide for slides in self._request.slide_ids for slide in slides}
        strangers = len(set(self._found.slide_ids) - asked)
        return (f"{strangers} slides are of no patient; they were not scored",) if strangers else ()

    def table(self, progress: Progress | None) -> pd.DataFrame:
        """One row a patient, in the order of the request."""
        n_patients = len(self._request.patient_ids)
        rows: list[Row] = []
        for batch in batches(self._read()):
            rows += self._batch(batch)
            if progress is not None:
                progress("patients", len(rows), n_patients)
        return pd.DataFrame(rows).astype({"risk": float, "risk_group": "Int64"})

    def _read(self) -> Iterator[ReadPatient]:
        store = self._found.store
        if store is None:
            yield from (
                ReadPatient(at, [], None, ()) for at in range(len(self._request.patient_ids))
            )
        else:
            known = set(self._found.slide_ids)
            slides = self._request.slide_ids
            absent = {s: "has no features" for of in slides for s in of if s not in known}
            yield from read_patients(store, slides, failed={**absent, **self._found.failed})

    def _batch(self, batch: Sequence[ReadPatient]) -> list[Row]:
        problems = [self._problem(patient) for patient in batch]
        usable = [patient for patient, problem in zip(batch, problems, strict=True) if not problem]
        said = iter(self._numbers(usable) if usable else [])
        rows = []
        for patient, problem in zip(batch, problems, strict=True):
            numbers = self._nothing if problem else next(said)
            rows.append(
                {
                    "patient_id": self._request.patient_ids[patient.at],
                    **numbers,
                    "n_slides": len(patient.tiles),
                    "n_tiles": patient.n_tiles,
                    "unread_slides": "; ".join(patient.problems),
                    "problem": problem,
                    **self._same,
                }
            )
        return rows

    def _problem(self, patient: ReadPatient) -> str:
        """Why this patient cannot be scored; empty where he can."""
        reasons = []
        stated = self._request.problems.get(self._request.patient_ids[patient.at])
        if stated:
            reasons.append(stated)
        if self._scorer.requires_images and not patient.n_tiles:
            reasons.append("no slide that can be used" if patient.problems else "no slide")
        for name, table in self._request.tables.items():
            required = name in self._scorer.bundle.study.required
            if required and table.iloc[patient.at].isna().all():
                reasons.append(f"no {name} measured")
        return "; ".join(reasons)

    def _numbers(self, patients: Sequence[ReadPatient]) -> list[Row]:
        at = np.array([patient.at for patient in patients], dtype=np.int64)
        contract, clinical = self._scorer.contract, self._request.clinical
        data = PatientData(
            keys=tuple(map(str, at)),
            bags=None
            if contract is None
            else bags_of([(p.tiles, p.places) for p in patients], contract),
            clinical=None if clinical is None else clinical.iloc[at],
            tables={name: table.iloc[at] for name, table in self._request.tables.items()},
        )
        found = self._scorer.predict(data)
        return [self._row(found, i) for i in range(len(patients))]

    def _row(self, found: Scored, i: int) -> Row:
        group = int(found.risk_group[i])
        outside = found.distribution.outside[i]
        return {
            "risk": float(found.risk[i]),
            **{name: float(values[i]) for name, values in found.probabilities.items()},
            "spread": None,
            "spread_note": NO_SPREAD,
            "risk_group": group,
            "risk_group_label": self._scorer.group_labels[group],
            "out_of_distribution": {True: "yes", False: "no", None: "not known"}[outside],
            "out_of_distribution_reason": found.distribution.reasons[i],
            "missing_inputs": ", ".join(found.missing_inputs[i]),
        }

    @property
    def _nothing(self) -> Row:
        """The same columns of a patient who could not be scored."""
        numbers = ["risk", *self._scorer.bundle.manifest.outcome.probability_columns]
        return {
            **dict.fromkeys([*numbers, "spread"]),
            "spread_note": "",
            "risk_group": None,
            "risk_group_label": "",
            "out_of_distribution": "",
            "out_of_distribution_reason": "",
            "missing_inputs": "",
        }


def _about_model(scorer: Scorer) -> Row:
    """What is the same in every row: which model this was, exactly."""
    from storm_clinic import __version__

    model, contract = scorer.model, scorer.contract
    return {
        "model": model.name,
        "version": model.version,
        "state": model.state,
        "model_notice": "; ".join(model.notices),
        "bundle_digest": scorer.bundle.digest,
        "encoder": "" if contract is None else contract.encoder,
        "encoder_digest": "" if contract is None else contract.encoder_digest or "not known",
        "storm_clinic_version": __version__,
    }
