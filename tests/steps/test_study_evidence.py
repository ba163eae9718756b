"""Evidence of a study whose outcome has several causes or classes, from predictions alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks
from storm_clinic.metrics.classes import macro_auroc
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.predictions import Predictions
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.study_evidence import cohort_facts, collect_evidence
from storm_clinic.steps.training_files import fold_metrics, headline_metrics
from storm_clinic.study import Endpoint, Study

N = 180
KEYS = tuple(f"key{i}" for i in range(N))
FOLD = np.arange(N) % 4
LEVELS = ("grade 1", "grade 2+", "grade 3/4")


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.from_document(
        {
            "format": 1,
            "study": "s",
            "question": "Which patients relapse before they die?",
            "endpoint": {"name": "e", "horizons_months": [12, 36], "tau_months": 36},
            "features": {"encoder": "toy"},
            "development": ["north"],
            "clinical": ["age"],
            "candidate": "fusion",
            "models": [
                {"name": "clinical", "head": "cox", "inputs": ["clinical"]},
                {"name": "fusion", "head": "deephit", "inputs": ["image", "clinical"]},
            ],
            "evaluation": {"seed": 1, "bootstraps": 200},
        }
    )


class FewFacts(SimpleNamespace):
    """As many patients as keys."""

    def __len__(self) -> int:
        return len(self.keys)


def evaluated(outcome) -> SimpleNamespace:
    cohort = SimpleNamespace(
        name="north",
        patients=pd.DataFrame({"site": ["a"] * N}, index=list(KEYS)),
        columns={},
        slides=pd.DataFrame({"patient_id": [], "scanner": []}),
        covariates=lambda names: pd.DataFrame(index=list(KEYS), columns=names),
        origin=SimpleNamespace(encoders_pretrained=(), simulated=False),
    )
    patients = FewFacts(
        keys=KEYS,
        patient_ids=KEYS,
        mean_embeddings={},
        cohort=cohort,
        data=SimpleNamespace(clinical=None),
        sites=["a"] * N,
        store=None,
        storm=None,
        inputs={"clinical table, north": "ab" * 32},
        lacking={"rna": 3},
    )
    return SimpleNamespace(outcome=outcome, patients=patients)


def predictions(**models: dict[str, np.ndarray]) -> Predictions:
    names = {"cohort": "north", "patient_key": KEYS, "repeat": 0, "fold": FOLD}
    return Predictions.concat(
        [
            Predictions(pd.DataFrame({**names, "model": model, **columns}))
            for model, columns in models.items()
        ]
    )


@pytest.fixture(scope="module")
def competing() -> tuple[CompetingRisks, dict[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(2)
    risk = rng.normal(size=N)
    times = np.stack(
        [rng.exponential(40 / np.exp(risk)), rng.exponential(60, N), rng.uniform(5, 80, N)]
    )
    cause = np.array([1, 2, 0])[times.argmin(axis=0)]
    outcome = CompetingRisks(np.ceil(times.min(axis=0)), cause, ("relapse", "death"))
    models = {}
    for model, lp in (("clinical", 0.5 * risk + rng.normal(size=N)), ("fusion", risk)):
        at = {f"risk_at_{h}m": 0.7 * (1 - np.exp(-h / 40 * np.exp(lp))) for h in (12, 36)}
        models[model] = {"risk": lp, **at}
    return outcome, models


@pytest.fixture(scope="module")
def graded() -> tuple[Classes, dict[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(3)
    signal = rng.normal(size=(N, 3))
    label = (signal + rng.gumbel(size=(N, 3))).argmax(axis=1).astype(np.int64)
    models = {}
    for model, raw in (("clinical", 0.2 * signal), ("fusion", signal)):
        p = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
        models[model] = {"risk": p[:, 2]} | {f"p_{v}": p[:, k] for k, v in enumerate(LEVELS)}
    return Classes(label, LEVELS), models


def collect(study, outcome, models, **more):
    return collect_evidence(
        EvaluationPlan.of(study),
        predictions(**models),
        [evaluated(outcome)],
        kind="cross-validation",
        **more,
    )


def test_competing_risks_go_the_whole_way_and_name_their_causes(study, competing):
    outcome, models = competing
    evidence = collect(study, outcome, models)
    [made_of] = evidence.outcomes
    assert made_of.names == ("relapse", "death")
    assert sum(made_of.counts) + made_of.n_censored == N
    assert evidence.one("c_index_gain", model="fusion", over="clinical").value is not None
    assert {curves.event for curves in evidence.risk_groups} == {"relapse"}
    assert {c.horizon_months for c in evidence.calibration} == {12.0, 36.0}
    assert "Aalen-Johansen" in evidence.calibration[0].method
    [check] = [c for c in evidence.checks if c.code == "SC112"]
    assert (check.status, "image" in check.reason) == ("warn", True)


def test_several_classes_go_the_whole_way_and_stay_out_of_names_of_metrics(study, graded):
    outcome, models = graded
    evidence = collect(study, outcome, models)
    assert evidence.outcomes[0].counts == tuple(np.bincount(outcome.label))
    assert {c.level for c in evidence.calibration} == set(LEVELS)
    assert {c.event for c in evidence.classes} == set(LEVELS)
    assert [m.model for m in evidence.confusion] == ["clinical", "fusion"]
    assert all(sum(map(sum, m.counts)) == N for m in evidence.confusion)
    logged = [metric.name for metric in headline_metrics(evidence)]
    assert "north/auroc_macro/fusion" in logged
    assert len(logged) == len(set(logged))
    assert not any(level in name for name in logged for level in LEVELS)


def test_checks_count_the_rarest_class(study, graded):
    outcome, _ = graded
    found = cohort_facts(study.endpoint, evaluated(outcome), "development").n_events
    assert found == np.bincount(outcome.label).min() < N / 3


def test_the_same_training_timed_twice_is_the_same_evidence(study, competing):
    first, again = (collect(study, *competing, seconds={"fusion": t}) for t in (1.0, 2.0))
    assert first.seconds != again.seconds
    assert (first, first.digest) == (again, again.digest)


def test_folds_are_scored_by_the_measure_of_their_outcome(competing, graded):
    tested, endpoint = FOLD == 0, Endpoint(name="e", tau_months=36)
    for (outcome, models), name, expected in (
        (competing, "fold_c_index", lambda o, m: wolbers_concordance(o, m["risk"], tau_months=36)),
        (
            graded,
            "fold_auroc_macro",
            lambda o, m: macro_auroc(o, np.stack([m[f"p_{v}"] for v in LEVELS], axis=1)),
        ),
    ):
        columns = models["fusion"]
        record = SimpleNamespace(
            repeat=0,
            fold=0,
            n_test=int(tested.sum()),
            n_test_events=3,
            fit=SimpleNamespace(n_stages=1, inner=()),
        )
        result = SimpleNamespace(
            fold=FOLD[None],
            risk=columns["risk"][None],
            probabilities={k: v[None] for k, v in columns.items() if k != "risk"},
            records=[record],
        )
        found = {m.name: m.value for m in fold_metrics(result, outcome, endpoint)}
        seen = {k: v[tested] for k, v in columns.items()}
        assert found[name] == expected(outcome.take(np.flatnonzero(tested)), seen).value
