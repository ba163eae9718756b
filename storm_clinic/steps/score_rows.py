"""Rows of risk: patients read, scored batch by batch, and described; see docs/scoring.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.progress import Progress
from storm_clinic.steps.score_inputs import bags_of
from storm_clinic.steps.score_request import ScoreRequest
from storm_clinic.steps.score_result import NO_SPREAD, Scored
from storm_clinic.steps.score_slides import FoundSlides
from storm_clinic.steps.score_stream import ReadPatient, SlideFiles, batches, read_patients
from storm_clinic.steps.scorer import Scorer
from storm_clinic.study import IMPUTED, VIRTUAL

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
        strangers = len(set(self._found.every_slide) - asked)
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
        found, slides = self._found, self._request.slide_ids
        if found.store is None and found.storm is None:
            yield from (
                ReadPatient(at, [], None, ()) for at in range(len(self._request.patient_ids))
            )
            return
        asked = {slide for of in slides for slide in of}
        known = set(found.slide_ids)
        without = dict.fromkeys(asked - known, "has no features")
        no_storm = dict.fromkeys(asked - set(found.storm_slide_ids), "has no STORM file")
        files = SlideFiles(
            found.store,
            found.storm,
            failed={**without, **found.failed},
            without_storm={**no_storm, **found.storm_failed},
        )
        yield from read_patients(files, slides)

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
                    "n_slides": patient.n_slides,
                    "n_tiles": patient.n_tiles,
                    "n_storm_slides": patient.storm.n_slides,
                    "n_storm_tiles": patient.storm.n_tiles,
                    "unread_slides": "; ".join(patient.problems),
                    "storm_out_of_domain": "; ".join(patient.storm.warnings),
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
        usable = " that can be used" if self._request.slide_ids[patient.at] else ""
        if self._scorer.requires_images and not patient.n_tiles:
            reasons.append(f"no slide{usable}")
        if self._scorer.requires_storm and not patient.storm.n_slides:
            reasons.append(f"no STORM file{usable}")
        for name, table in self._request.tables.items():
            required = name in self._scorer.bundle.study.required
            if required and table.iloc[patient.at].isna().all():
                reasons.append(f"no {name} measured")
        return "; ".join(reasons)

    def _numbers(self, patients: Sequence[ReadPatient]) -> list[Row]:
        at = np.array([patient.at for patient in patients], dtype=np.int64)
        clinical = self._request.clinical
        data = PatientData(
            keys=tuple(map(str, at)),
            bags=self._bags(patients),
            clinical=None if clinical is None else clinical.iloc[at],
            storm=self._storm_bags("storm", patients),
            virtual_expression=self._storm_bags(VIRTUAL, patients),
            tables={name: table.iloc[at] for name, table in self._request.tables.items()}
            | self._imputed(patients),
        )
        found = self._scorer.predict(data)
        return [self._row(found, i) for i in range(len(patients))]

    def _bags(self, patients: Sequence[ReadPatient]) -> Bags | None:
        contract = self._scorer.contract
        if contract is None:
            return None
        tiles = [(patient.tiles, patient.places) for patient in patients]
        return bags_of(tiles, width=contract.width, dtype=contract.dtype)

    def _storm_bags(self, name: str, patients: Sequence[ReadPatient]) -> Bags | None:
        files = self._found.storm
        if files is None or name not in files.inputs:
            return None
        genes = files.genes if name == VIRTUAL else ()
        tiles = [(patient.storm.tiles[name], patient.storm.places[name]) for patient in patients]
        width = len(genes) if name == VIRTUAL else files.contract.width
        return bags_of(tiles, width=width, dtype=files.contract.dtype, columns=genes)

    def _imputed(self, patients: Sequence[ReadPatient]) -> dict[str, pd.DataFrame]:
        """Imputed expression of the model's genes; NaN where there is none, as in `validate`."""
        files = self._found.storm
        if files is None or IMPUTED not in files.inputs:
            return {}
        rows = np.full((len(patients), len(files.genes)), np.nan)
        for i, patient in enumerate(patients):
            if patient.storm.expression is not None:
                rows[i] = patient.storm.expression
        table = pd.DataFrame(rows, columns=list(files.genes))
        return {IMPUTED: table.reindex(columns=list(self._scorer.imputed_genes))}

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

    model, contract, storm = scorer.model, scorer.contract, scorer.storm_contract
    return {
        "model": model.name,
        "version": model.version,
        "state": model.state,
        "model_notice": "; ".join(model.notices),
        "bundle_digest": scorer.bundle.digest,
        "encoder": "" if contract is None else contract.encoder,
        "encoder_digest": "" if contract is None else contract.encoder_digest or "not known",
        "storm_checkpoint": "" if storm is None else storm.encoder,
        "storm_checkpoint_digest": "" if storm is None else storm.encoder_digest,
        "storm_clinic_version": __version__,
    }
