"""Pages about several causes, several classes and many models: all named, nothing outrun."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks
from storm_clinic.predictions import Predictions
from storm_clinic.reporting.answer import answer
from storm_clinic.reporting.comparison_tables import comparison_table, fusion_table
from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.findings import findings
from storm_clinic.reporting.glossary import glossary
from storm_clinic.reporting.methods import methods
from storm_clinic.reporting.page import Report, render
from storm_clinic.reporting.references import references
from storm_clinic.study import Study
from storm_clinic.validation.calibration_curves import calibration_curve
from storm_clinic.validation.curves import (
    confusion,
    cross_validated_groups,
    curves_by_class,
    curves_of_groups,
)
from storm_clinic.validation.evidence import CohortOutcome, Evidence
from storm_clinic.validation.fusion import parts_of
from storm_clinic.validation.protocol import evaluate

N = 260
KEYS = [f"key{i}" for i in range(N)]
FOLD = np.arange(N) % 5
INPUTS = {
    "clinical": ["clinical"],
    "image-mean": ["image"],
    "image-attention": ["image"],
    "image-gated-attention": ["image"],
    "image-transformer-pooling": ["image"],
    "genes": ["imputed_expression"],
    "genes-forest": ["imputed_expression"],
    "context": ["storm"],
    "image-clinical-late": ["image", "clinical"],
    "image-clinical-gated": ["image", "clinical"],
    "image-genes": ["image", "imputed_expression"],
    "context-clinical": ["storm", "clinical"],
    "everything-together-fused": ["image", "storm", "imputed_expression", "clinical"],
}


def study_of(**changes) -> Study:
    return Study.from_document(
        {
            "format": 1,
            "study": "many",
            "question": "Which of thirteen models foretells what happens to these patients?",
            "endpoint": {"name": "relapse", "horizons_months": [24, 60], "tau_months": 60},
            "features": {"encoder": "e", "storm": "s"},
            "development": ["a"],
            "clinical": ["age", "stage"],
            "candidate": "everything-together-fused",
            "models": [
                {"name": name, "head": "attention-cox", "inputs": inputs}
                for name, inputs in INPUTS.items()
            ],
            "evaluation": {"seed": 1},
        }
        | changes
    )


def content_of(study: Study, predictions: Predictions, outcome, **parts) -> ReportContent:
    estimates = evaluate(
        predictions,
        KEYS,
        outcome,
        cohort="a",
        endpoint=study.endpoint,
        candidate=study.candidate,
        comparator="clinical",
        kind="cross-validation",
        seed=1,
        bootstraps=50,
        parts=parts_of(study),
    )
    evidence = Evidence(
        study=study.study,
        study_digest=study.digest,
        kind="cross-validation",
        candidate=study.candidate,
        comparator="clinical",
        estimates=tuple(estimates),
        seconds={name: 3.0 + 41.3 * at for at, name in enumerate(INPUTS)},
        **parts,
    )
    return ReportContent(
        question=study.question,
        candidate=study.candidate,
        comparator="clinical",
        study=study,
        development=evidence,
    )


@pytest.fixture(scope="module")
def competing() -> ReportContent:
    rng = np.random.default_rng(3)
    hidden = {name: rng.normal(size=N) for name in ("clinical", "image")}
    hidden |= dict.fromkeys(("storm", "imputed_expression"), np.zeros(N))
    truth = 0.8 * hidden["clinical"] + 0.8 * hidden["image"]
    times = np.stack(
        [
            rng.exponential(50 / np.exp(truth)),
            rng.exponential(70, N),
            rng.uniform(10, 110, N),
        ]
    )
    cause = np.array([1, 2, 0])[times.argmin(axis=0)]
    outcome = CompetingRisks(np.ceil(times.min(axis=0)), cause, ("relapse", "other_death"))
    parts = []
    for model, inputs in INPUTS.items():
        risk = 0.8 * sum(hidden[name] for name in inputs) + 0.3 * rng.normal(size=N)
        part = pd.DataFrame({"cohort": "a", "patient_key": KEYS, "model": model, "risk": risk})
        part = part.assign(repeat=0, fold=FOLD)
        for h in (24, 60):
            part[f"risk_at_{h}m"] = 0.6 * (1 - np.exp(-h / 50 * np.exp(np.clip(risk, -4, 4))))
        parts.append(Predictions(part))
    predictions, study = Predictions.concat(parts), study_of()
    best = predictions.of(model=study.candidate).table
    groups = cross_validated_groups(best["risk"], FOLD, [1 / 3, 2 / 3])
    counts = np.bincount(cause)
    return content_of(
        study,
        predictions,
        outcome,
        outcomes=(
            CohortOutcome(
                cohort="a",
                kind="competing risks",
                names=outcome.causes,
                counts=tuple(counts[1:].tolist()),
                n_censored=int(counts[0]),
            ),
        ),
        risk_groups=(
            curves_of_groups(
                outcome,
                groups,
                n_groups=3,
                cohort="a",
                model=study.candidate,
                until_months=75,
            ),
        ),
        calibration=tuple(
            calibration_curve(
                outcome,
                best[f"risk_at_{h}m"],
                cohort="a",
                model=study.candidate,
                horizon_months=h,
                seed=1,
                bootstraps=50,
            )
            for h in (24, 60)
        ),
    )


@pytest.fixture(scope="module")
def graded() -> ReportContent:
    rng = np.random.default_rng(4)
    levels = ("grade_1", "grade_2", "grade_3")
    signal = rng.normal(size=(N, 3))
    truth = np.exp(1.5 * signal) / np.exp(1.5 * signal).sum(axis=1, keepdims=True)
    label = np.array([rng.choice(3, p=row) for row in truth], dtype=np.int64)
    outcome, study = Classes(label, levels), study_of(endpoint={"name": "grade"})
    tables, shown = [], {}
    for at, model in enumerate(INPUTS):
        mixed = signal * at / 12 + rng.normal(size=(N, 3)) * (1 - at / 13)
        p = np.exp(mixed) / np.exp(mixed).sum(axis=1, keepdims=True)
        columns = {f"p_{level}": p[:, k] for k, level in enumerate(levels)}
        names = {"cohort": "a", "patient_key": KEYS, "model": model, "repeat": 0, "fold": FOLD}
        tables.append(Predictions(pd.DataFrame({**names, "risk": p[:, 2], **columns})))
        shown[model] = p
    best, about = shown[study.candidate], {"cohort": "a", "model": study.candidate}
    return content_of(
        study,
        Predictions.concat(tables),
        outcome,
        outcomes=(
            CohortOutcome(
                cohort="a",
                kind="classes",
                names=levels,
                counts=tuple(np.bincount(label).tolist()),
            ),
        ),
        classes=tuple(curves_by_class(outcome, best, **about)),
        confusion=(confusion(outcome, best, **about),),
        calibration=tuple(
            calibration_curve(
                Classes((label == k).astype(np.int64), ("rest", level)),
                best[:, k],
                seed=1,
                bootstraps=50,
                level=level,
                **about,
            )
            for k, level in enumerate(levels)
        ),
    )


def test_with_competing_risks_every_cause_is_named_with_its_number(competing):
    outcome = competing.development.outcomes[0]
    text = answer(competing)
    relapse, death = outcome.counts
    assert f"({relapse} with relapse and {death} with other death)" in text
    assert "ranked patients by risk of relapse better than age and stage alone" in text
    said = " ".join(methods(competing))
    assert "Of each patient the first of relapse and other death counts" in said
    assert f"{outcome.n_censored} without any of them" in said
    assert any("Wolbers" in text for text in references(competing))
    assert "another event before (Wolbers)" in dict(glossary(competing))["C-index"]


def test_the_survival_page_says_nothing_of_other_causes(validated):
    page = render(validated)
    for word in ("Wolbers", "Aalen", "incidence", "cause-specific"):
        assert word not in page


def test_the_incidence_is_drawn_and_called_so(competing):
    page = render(competing)
    assert "Cumulative incidence of relapse by risk group" in page
    assert "cause-specific log-rank p" in page
    assert "Event-free patients" not in page
    [text] = [
        t for name, t in Report(competing).tables().items() if name.endswith("groups-1-table")
    ]
    rows = list(csv.DictReader(StringIO(text)))
    assert {"incidence", "other_events"} <= set(rows[0])
    assert "event_free" not in rows[0]


def test_several_classes_are_told_apart_and_counted_one_by_one(graded):
    outcome = graded.development.outcomes[0]
    text = answer(graded)
    numbers = ", ".join(
        f"{n} {name}" for n, name in zip(outcome.counts, outcome.names, strict=True)
    )
    assert f"({numbers})" in text
    assert "told grade 1, grade 2 and grade 3 apart better than age and stage alone" in text
    assert "risk" not in text
    assert "AUROC (macro)" in text


def test_the_matrix_holds_every_patient_and_each_class_its_line(graded):
    tables = Report(graded).tables()
    rows = list(csv.DictReader(StringIO(tables["r1-confusion-1"])))
    assert sum(int(row["patients"]) for row in rows) == N
    lines = list(csv.DictReader(StringIO(tables["r1-classes-table"])))
    assert {row["level"] for row in lines} == {"grade_1", "grade_2", "grade_3"}
    assert {row["model"] for row in lines} == set(INPUTS)


def test_a_class_that_is_off_is_named(graded, competing):
    estimate = next(
        e for e in graded.development.find("o_e", model=graded.candidate) if e.level == "grade_2"
    )
    off = estimate.model_copy(update={"value": 1.5, "lower": 1.2, "upper": 1.9, "note": ""})
    judged = graded.development.model_copy(update={"estimates": (off,), "kind": "external"})
    said = " ".join(findings(replace(graded, validation=(judged,), development=None)))
    assert "more patients were grade 2 than were predicted" in said
    missed = competing.development.find("o_e", model=competing.candidate)[0].model_copy(
        update={"value": 0.5, "lower": 0.3, "upper": 0.8, "note": ""}
    )
    judged = competing.development.model_copy(update={"estimates": (missed,), "kind": "external"})
    said = " ".join(findings(replace(competing, validation=(judged,), development=None)))
    assert "fewer events of relapse happened than were predicted" in said


def test_all_models_stand_in_one_table_in_the_order_of_the_study(competing):
    evidence = competing.development
    table = comparison_table(competing, evidence, "a", "t")
    assert [row.cells[0].text for row in table.rows] == list(INPUTS)
    assert [cell.text for cell in table.header] == [
        "Model",
        "Head",
        "C-index",
        "Gain over clinical",
        "Slope",
        "Seconds",
    ]
    assert "support no claim" in table.caption
    first, last = table.rows[0], table.rows[-1]
    assert first.cells[3].text == "reference"
    assert [first.cells[5].text, last.cells[5].text] == ["3.0", "499"]
    shown = evidence.one("c_index", model="image-mean")
    record = next(r for r in table.records if r["model"] == "image-mean")
    assert (record["value"], record["value_lower"]) == (shown.value, shown.lower)


def test_seconds_that_nobody_took_have_no_column(competing):
    evidence = competing.development.model_copy(update={"seconds": {}})
    table = comparison_table(competing, evidence, "a", "t")
    assert "Seconds" not in {cell.text for cell in table.header}


def test_each_fusion_is_held_against_its_parts_in_words_that_its_interval_allows(competing):
    table = fusion_table(competing, competing.development, "a", "t")
    assert table.caption.startswith("Each fusion against its parts on a")
    assert "describe resampling of these patients and support no claim" in table.caption
    words = {}
    for row in table.rows:
        if row.heading:
            whole = row.cells[0].text.split(":")[0]
        else:
            words[whole, row.cells[0].text.removeprefix("over ")] = row.cells[-1].text
    pairs = {(whole, part) for whole, parts in parts_of(competing.study).items() for part in parts}
    assert set(words) == pairs
    for (whole, part), text in words.items():
        gain = competing.development.one("c_index_gain", model=whole, over=part)
        side = "a gain" if gain.lower > 0 else "a loss" if gain.upper < 0 else None
        expected = side and f"{side} on average"
        assert text == (expected or "no gain was shown")
    assert set(words.values()) >= {"a gain on average", "no gain was shown"}


def test_a_study_without_fusions_has_no_such_table(competing):
    alone = study_of(
        candidate="clinical",
        models=[{"name": "clinical", "head": "cox", "inputs": ["clinical"]}],
    )
    content = replace(competing, study=alone)
    assert fusion_table(content, competing.development, "a", "t") is None


@pytest.mark.parametrize("kind", ["competing", "graded"])
def test_ids_are_unique_and_the_page_is_the_same_each_time(request, kind):
    content = request.getfixturevalue(kind)
    page = render(content)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page == render(content)
