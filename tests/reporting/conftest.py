"""A made-up study whose numbers come from our own protocol, so that page and numbers agree."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.predictions import Predictions
from storm_clinic.reporting.content import (
    CohortSummary,
    FlowStep,
    Provenance,
    RecordedMove,
    ReportContent,
    TileGallery,
    TilePicture,
    VariableRow,
)
from storm_clinic.study import Study
from storm_clinic.validation.calibration_curves import calibration_curve
from storm_clinic.validation.checks import CheckInput, CohortFacts, run_checks
from storm_clinic.validation.curves import (
    class_curves,
    cross_validated_groups,
    curves_of_groups,
    risk_group_curves,
)
from storm_clinic.validation.evidence import Evidence
from storm_clinic.validation.protocol import evaluate

HORIZONS = (12.0, 36.0, 60.0)
# What each model sees of the two hidden causes: what the clinic knows, and what only tissue shows.
WEIGHTS = {"clinical": (1.0, 0.0), "abmil": (0.4, 0.5), "fusion": (1.0, 0.6)}

STUDY = {
    "format": 1,
    "study": "test-pfi",
    "question": "Does histology predict progression after nephrectomy better than age and stage?",
    "endpoint": {"name": "pfi", "horizons_months": list(HORIZONS), "tau_months": 60},
    "features": {"encoder": "test-encoder"},
    "development": ["hospital_a"],
    "validation": ["hospital_b"],
    "clinical": ["age", "stage"],
    "candidate": "fusion",
    "models": [
        {"name": "clinical", "head": "cox", "inputs": ["clinical"]},
        {
            "name": "abmil",
            "head": "attention-cox",
            "inputs": ["image"],
            "tune": {"dropout": [0.0, 0.25]},
        },
        {"name": "fusion", "head": "attention-cox", "inputs": ["image", "clinical"]},
    ],
    "evaluation": {"folds": 5, "repeats": 2, "inner_folds": 3, "seed": 7, "bootstraps": 200},
    "claims": [
        {"metric": "c_index", "lower_bound_at_least": 0.6},
        {"metric": "c_index_gain", "over": "clinical", "lower_bound_at_least": 0.0},
        {"metric": "calibration_slope", "interval_within": [0.5, 1.6]},
    ],
}


def made_up_patients(seed: int, n: int, tissue: float) -> tuple[np.ndarray, np.ndarray, Survival]:
    """Two hidden causes and what became of each patient; ``tissue`` is the effect of the second."""
    rng = np.random.default_rng(seed)
    clinic, slide = rng.normal(size=n), rng.normal(size=n)
    time = rng.exponential(70 / np.exp(clinic + tissue * slide))
    end = rng.uniform(6, 110, n)
    # Whole months, as registries have them: ties.
    months = np.maximum(np.ceil(np.minimum(time, end)), 1.0)
    return clinic, slide, Survival.from_arrays(months, time <= end)


def made_up_predictions(
    cohort: str, clinic: np.ndarray, slide: np.ndarray, folds: list[np.ndarray] | None
) -> Predictions:
    parts = []
    for model, (a, b) in WEIGHTS.items():
        lp = a * clinic + b * slide
        for repeat, fold in enumerate(folds or [None]):
            part = pd.DataFrame(
                {
                    "cohort": cohort,
                    "patient_key": [f"key{i}" for i in range(len(lp))],
                    "model": model,
                    "repeat": -1 if fold is None else repeat,
                    "fold": -1 if fold is None else fold,
                    "risk": lp,
                }
            )
            for horizon in HORIZONS:
                part[f"risk_at_{horizon:g}m"] = 1 - np.exp(-horizon / 70 * np.exp(lp))
            parts.append(Predictions(part))
    return Predictions.concat(parts)


def made_up_evidence(study: Study, kind: str, *, seed: int, n: int, tissue: float) -> Evidence:
    cohort = "hospital_b" if kind == "external" else "hospital_a"
    clinic, slide, outcome = made_up_patients(seed, n, tissue)
    rng = np.random.default_rng(seed)
    folds = None if kind == "external" else [rng.permutation(n) % 5 for _ in range(2)]
    predictions = made_up_predictions(cohort, clinic, slide, folds)
    estimates = evaluate(
        predictions,
        [f"key{i}" for i in range(n)],
        outcome,
        cohort=cohort,
        endpoint=study.endpoint,
        candidate="fusion",
        comparator="clinical",
        kind=kind,
        seed=3,
        bootstraps=200,
    )
    table = predictions.of(model="fusion").table.query("repeat <= 0")
    lp = table["risk"].to_numpy()
    if kind == "external":
        groups = risk_group_curves(
            outcome, lp, [-0.5, 0.5], cohort=cohort, model="fusion", until_months=84
        )
    else:
        codes = cross_validated_groups(lp, table["fold"], [1 / 3, 2 / 3])
        groups = curves_of_groups(
            outcome,
            codes,
            n_groups=3,
            cohort=cohort,
            model="fusion",
            until_months=84,
            note="Groups are thirds of out-of-fold risk inside each fold",
        )
    curves = tuple(
        calibration_curve(
            outcome,
            predictions.of(model=model).table.query("repeat <= 0")[f"risk_at_{h:g}m"].to_numpy(),
            cohort=cohort,
            model=model,
            horizon_months=h,
            seed=1,
            bootstraps=100,
        )
        for h in HORIZONS
        for model in ("clinical", "fusion")
    )
    facts = [
        CohortFacts("hospital_a", "development", 320, 140, 4, missing_share={"stage": 0.05}),
        CohortFacts(
            "hospital_b",
            "validation",
            n,
            outcome.n_events,
            1,
            {h: int((outcome.time_months > h).sum()) for h in HORIZONS},
            {"stage": 0.24, "age": 0.0},
        ),
    ]
    checks = run_checks(
        CheckInput(
            kind=kind,
            estimates=estimates,
            cohorts=facts if kind == "external" else facts[:1],
            candidate="fusion",
            comparator="clinical",
            clinical_parameters=4,
            n_overlapping=0 if kind == "external" else None,
            encoder="test-encoder",
        )
    )
    return Evidence(
        study=study.study,
        study_digest=study.digest,
        kind=kind,
        candidate="fusion",
        comparator="clinical",
        estimates=tuple(estimates),
        checks=checks,
        risk_groups=(groups,),
        calibration=curves,
        digests={f"predictions, {cohort}": "ab" * 32, f"clinical table, {cohort}": "cd" * 32},
    )


def made_up_cohorts(evidence: tuple[Evidence, ...]) -> tuple[CohortSummary, ...]:
    sizes = {e.cohorts[0]: e.estimates[0] for e in evidence}
    return tuple(
        CohortSummary(
            name=name,
            role="development" if name == "hospital_a" else "validation",
            n_patients=estimate.n_patients,
            n_events=estimate.n_events,
            n_slides=estimate.n_patients + 31,
            n_sites=4 if name == "hospital_a" else 1,
            median_follow_up_months=52.3,
            origin=(("source", "made up for tests"), ("licence", "none")),
            flow=(
                FlowStep(
                    "in the clinical table",
                    "rows",
                    estimate.n_patients + 24,
                    estimate.n_patients + 22,
                    (("duplicate row", 2),),
                ),
                FlowStep(
                    "with outcome pfi",
                    "patients",
                    estimate.n_patients + 22,
                    estimate.n_patients + 15,
                    (("no event status", 4), ("time of zero", 3)),
                ),
                FlowStep(
                    "with slides",
                    "patients",
                    estimate.n_patients + 15,
                    estimate.n_patients,
                    (("no slide", 11), ("no features of any of its slides", 4)),
                ),
                FlowStep(
                    "with features",
                    "slides",
                    estimate.n_patients + 38,
                    estimate.n_patients + 31,
                    (("no feature file", 7),),
                ),
            ),
            variables=(
                VariableRow("age", "", "61 (52 to 70)", 0),
                VariableRow("stage", "Stage I", "141 (44%)", 77),
                VariableRow("stage", "Stage II", "52 (16%)"),
                VariableRow("stage", "Stage III", "81 (25%)"),
                VariableRow("stage", "Stage IV", "46 (14%)"),
                VariableRow("sex", "FEMALE", "110 (34%)", 0),
                VariableRow("sex", "MALE", "210 (66%)"),
            ),
        )
        for name, estimate in sizes.items()
    )


def made_up_tile(seed: int) -> TilePicture:
    rng = np.random.default_rng(seed)
    pixels = rng.normal((205, 150, 190), 18, (12, 12, 3)).clip(0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).resize((112, 112), Image.Resampling.BICUBIC).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return TilePicture(f"data:image/png;base64,{data}", f"attention {1 / (1 + seed):.3f}")


@pytest.fixture(scope="session")
def study() -> Study:
    return Study.from_document(STUDY)


@pytest.fixture(scope="session")
def validated(study: Study) -> ReportContent:
    """Development and validation, in which tissue truly adds something."""
    development = made_up_evidence(study, "cross-validation", seed=1, n=320, tissue=0.6)
    validation = made_up_evidence(study, "external", seed=2, n=260, tissue=0.6)
    return ReportContent(
        question=study.question,
        candidate="fusion",
        comparator="clinical",
        endpoint="progression-free interval",
        study=study,
        development=development,
        validation=(validation,),
        cohorts=made_up_cohorts((development, validation)),
        tiles=(
            TileGallery(
                "fusion",
                "hospital_b",
                tuple(made_up_tile(i) for i in range(6)),
                tuple(made_up_tile(i) for i in range(20, 26)),
                "Six tiles of most and least weight over all patients, at most one a patient.",
            ),
        ),
        provenance=Provenance(
            digests=(("model bundle", "ef" * 32),),
            versions=(("storm_clinic", "0.1.0"), ("numpy", "2.4.6"), ("Python", "3.11.9")),
            seed=7,
            identifiers=(("model", "test-pfi, version 1"),),
            made_on="2026-11-23",
        ),
        moves=(
            RecordedMove(1, "candidate", "c.trainer", "2026-11-19 15:00", "a1" * 32),
            RecordedMove(2, "locked", "a.weber", "2026-11-20 09:00", "b2" * 32),
        ),
    )


@pytest.fixture(scope="session")
def no_gain(study: Study, validated: ReportContent) -> ReportContent:
    """The same study on patients for whom tissue adds nothing."""
    validation = made_up_evidence(study, "external", seed=5, n=260, tissue=0.0)
    return replace(validated, validation=(validation,))


@pytest.fixture(scope="session")
def development_only(validated: ReportContent) -> ReportContent:
    return replace(
        validated, validation=(), cohorts=validated.cohorts[:1], tiles=(), limits=("Pilot data.",)
    )


@pytest.fixture(scope="session")
def binary() -> ReportContent:
    """Predictions of a binary outcome from another program: no study, no development."""
    rng = np.random.default_rng(11)
    n = 240
    clinic, slide = rng.normal(size=n), rng.normal(size=n)
    label = (rng.random(n) < 1 / (1 + np.exp(1 - clinic - slide))).astype(np.int64)
    outcome = Classes(label, ("no", "yes"))
    keys = [f"key{i}" for i in range(n)]
    parts = []
    for model, lp in (("nomogram", clinic - 1), ("deep", clinic + slide - 1)):
        p = 1 / (1 + np.exp(-lp))
        columns = {"risk": lp, "p_no": 1 - p, "p_yes": p}
        names = {"cohort": "their_clinic", "patient_key": keys, "model": model}
        parts.append(Predictions(pd.DataFrame({**names, "repeat": -1, "fold": -1, **columns})))
    predictions = Predictions.concat(parts)
    study = Study.from_document(STUDY)
    estimates = evaluate(
        predictions,
        keys,
        outcome,
        cohort="their_clinic",
        endpoint=study.endpoint,
        candidate="deep",
        comparator="nomogram",
        kind="external",
        seed=1,
        bootstraps=200,
    )
    shown = [(m, predictions.of(model=m).table["p_yes"].to_numpy()) for m in predictions.models]
    evidence = Evidence(
        study="none",
        study_digest="00" * 32,
        kind="external",
        candidate="deep",
        comparator="nomogram",
        estimates=tuple(estimates),
        classes=tuple(class_curves(outcome, p, cohort="their_clinic", model=m) for m, p in shown),
        calibration=tuple(
            calibration_curve(outcome, p, cohort="their_clinic", model=m, seed=1) for m, p in shown
        ),
    )
    return ReportContent(
        question="Who will respond to treatment?",
        candidate="deep",
        comparator="nomogram",
        validation=(evidence,),
    )
