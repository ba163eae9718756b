"""Predictions of another program, judged on real patients (lung: lifelines' copy of R's)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.datasets import load_lung
from lifelines.utils import concordance_index

from storm_clinic.cohort.outcome import DAYS_PER_MONTH
from storm_clinic.errors import CohortError, PredictionsError, StormClinicError
from storm_clinic.files import Workspace
from storm_clinic.steps.predictions_report import report_predictions

MANIFEST = """\
format: 1
cohort: lung
tables:
  clinical: {path: clinical.csv, patient_id: subject}
site: inst
columns:
  age: {from: age, kind: continuous, unit: years}
  sex: {from: sex, kind: nominal, levels: [male, female], codes: {1: male, 2: female}}
  ecog: {from: ph.ecog, kind: continuous, unit: "1"}
  old: {kind: binned, from: age, cuts: [65]}
endpoints:
  os: {kind: survival, time: time, unit: days, event: status, codes: {0: censored, 1: event}}
missing: ["", NA, nan]
origin: {source: North Central Cancer Treatment Group, licence: public}
"""
CLASSES = (
    "  died: {kind: classes, from: status, levels: [alive, dead], codes: {0: alive, 1: dead}}\n"
)


@pytest.fixture(scope="module")
def lung() -> pd.DataFrame:
    table = load_lung()
    table["subject"] = [f"LUNG-{number:03d}" for number in range(len(table))]
    return table


@pytest.fixture
def workspace(tmp_path, lung) -> Workspace:
    folder = tmp_path / "cohorts" / "lung"
    folder.mkdir(parents=True)
    (folder / "cohort.yaml").write_text(MANIFEST, encoding="utf-8")
    lung.to_csv(folder / "clinical.csv", index=False, na_rep="NA")
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def fitted(lung) -> pd.DataFrame:
    """What R would write: row names, survival at horizons, NA where a covariate is missing."""
    known = lung.dropna(subset=["ph.ecog"])
    columns = ["time", "status", "sex", "age", "ph.ecog"]
    model = CoxPHFitter().fit(known[columns], "time", "status")
    survival = model.predict_survival_function(known, times=[6 * DAYS_PER_MONTH, 365.25])
    return pd.DataFrame(
        {
            "patient_id": lung["subject"],
            "risk": model.predict_log_partial_hazard(known).reindex(lung.index),
            "survival_at_6m": survival.iloc[0].reindex(lung.index),
            "survival_at_12m": survival.iloc[1].reindex(lung.index),
        }
    )


def save(table: pd.DataFrame, folder: Path, name: str = "predictions.csv") -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, na_rep="NA")
    return path


def test_a_csv_as_r_writes_it_gives_the_numbers_of_other_programs(workspace, lung, fitted):
    report = report_predictions(
        save(fitted, workspace.root), cohort="lung", thresholds=(0.1, 0.6), workspace=workspace
    )
    [evidence] = report.content.validation
    known = lung["ph.ecog"].notna().to_numpy()
    found = evidence.one("c_index")
    expected = concordance_index(lung["time"][known], -fitted["risk"][known], lung["status"][known])
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.value == pytest.approx(0.6371355, abs=1e-6)  # R: survival::concordance
    assert found.n_patients == known.sum() == 227
    curve = KaplanMeierFitter().fit(lung["time"][known], lung["status"][known])
    observed = 1 - float(curve.predict(365.25))
    predicted = 1 - float(fitted["survival_at_12m"][known].mean())
    ratio = evidence.one("o_e", horizon_months=12.0).value
    assert ratio == pytest.approx(observed / predicted, rel=1e-6)


def test_who_has_no_prediction_is_counted_with_the_reason(workspace, fitted):
    stranger = fitted.iloc[[0]].assign(patient_id="somebody else")
    path = save(pd.concat([fitted, stranger]), workspace.root)
    report = report_predictions(path, cohort="lung", workspace=workspace)
    flow = {step.step: step for step in report.content.cohorts[0].flow}
    assert flow["with predictions"].reasons == (("no prediction", 1),)
    rows = flow["predictions for patients of the cohort"]
    assert (rows.n_before, rows.n_after) == (229, 228)


def test_no_patient_is_named_on_the_page_or_in_its_tables(workspace, fitted, tmp_path):
    report = report_predictions(save(fitted, workspace.root), cohort="lung", workspace=workspace)
    page = report.save(tmp_path / "page.html")
    texts = [page.read_text(), *report.tables().values()]
    assert not any("LUNG-" in text for text in texts)


def test_what_was_not_used_is_said(workspace, fitted):
    path = save(fitted.assign(time=1), workspace.root)
    report = report_predictions(path, cohort="lung", workspace=workspace)
    assert any("not used: time" in limit for limit in report.content.limits)


def test_a_model_may_lack_horizons_that_another_has(workspace, lung, fitted):
    other = fitted[["patient_id"]].assign(model="clinical", risk=lung["age"])
    path = save(pd.concat([fitted.assign(model="new"), other]), workspace.root)
    report = report_predictions(path, cohort="lung", workspace=workspace)
    [evidence] = report.content.validation
    assert (evidence.candidate, evidence.comparator) == ("new", "clinical")
    without = evidence.one("brier", model="clinical", horizon_months=12.0)
    assert (without.value, without.note) == (
        None,
        "predictions: no column risk_at_12m was predicted",
    )
    assert evidence.one("c_index_gain", model="new", over="clinical").value is not None


def test_folds_in_the_file_make_it_a_cross_validation(workspace, fitted):
    path = save(fitted.assign(fold=np.arange(len(fitted)) % 5), workspace.root)
    report = report_predictions(path, cohort="lung", workspace=workspace)
    assert report.content.validation == ()
    assert report.content.development is not None
    assert "supports no claim" in report.content.development.one("c_index").method


def test_parquet_and_csv_give_the_same_evidence(workspace, fitted):
    csv = report_predictions(save(fitted, workspace.root), cohort="lung", workspace=workspace)
    path = save(fitted, workspace.root, "predictions.parquet")
    parquet = report_predictions(path, cohort="lung", workspace=workspace)
    ours, theirs = csv.content.validation[0], parquet.content.validation[0]
    assert [e.value for e in ours.estimates] == pytest.approx(
        [e.value for e in theirs.estimates], rel=1e-12
    )


def test_one_probability_of_two_classes_is_enough(workspace, lung):
    manifest = workspace.cohorts / "lung" / "cohort.yaml"
    manifest.write_text(MANIFEST.replace("missing:", CLASSES + "missing:"), encoding="utf-8")
    p = 1 / (1 + np.exp(-(lung["age"] - 60) / 10))
    path = save(pd.DataFrame({"subject": lung["subject"], "p_dead": p}), workspace.root)
    report = report_predictions(path, cohort="lung", endpoint="died", workspace=workspace)
    [evidence] = report.content.validation
    ranks = p.rank().to_numpy()
    dead = lung["status"].to_numpy() == 1
    n_pairs = dead.sum() * (~dead).sum()
    expected = (ranks[dead].sum() - dead.sum() * (dead.sum() + 1) / 2) / n_pairs
    assert evidence.one("auroc").value == pytest.approx(expected, abs=1e-12)
    assert evidence.one("o_e").value == pytest.approx(dead.mean() / p.mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop(columns="patient_id"), "no column names the patients"),
        (lambda t: t.assign(risk="0,5"), "risk is no number in rows 2, 3, .* the first is '0,5'"),
        (lambda t: t.assign(survival_at_6m=50.0), "survival_at_6m lies outside 0 to 1 in rows 2"),
        (lambda t: t.rename(columns={"survival_at_6m": "risk_6"}), "'risk_6' looks like a pred"),
        (lambda t: t[["patient_id"]], "nothing is predicted"),
        (lambda t: pd.concat([t, t]), "predicted more than once"),
        (lambda t: t.assign(patient_id="x" + t["patient_id"]), "none of its 228 patients"),
        (lambda t: t.assign(cohort="colon"), "no row of cohort 'lung'.*there: colon"),
        (lambda t: t.assign(fold=0.5), "fold is no whole number in rows 2, 3"),
        (lambda t: t.assign(risk_at_6m=0.5), "two columns are about month 6"),
        (lambda t: t.assign(risk=np.nan), "none of the 228 patients with an outcome"),
    ],
)
def test_a_wrong_file_is_refused_by_column_and_row(workspace, fitted, change, told):
    path = save(change(fitted), workspace.root)
    with pytest.raises(PredictionsError, match=f"(?s)predictions.csv.*{told}"):
        report_predictions(path, cohort="lung", workspace=workspace)


def test_another_separator_is_told_from_a_missing_column(workspace, fitted):
    path = workspace.root / "predictions.csv"
    fitted.to_csv(path, sep=";", index=False)
    with pytest.raises(PredictionsError, match="another separator"):
        report_predictions(path, cohort="lung", workspace=workspace)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"candidate": "nwe"}, PredictionsError, "'nwe' is no model of the file"),
        ({"endpoint": "pfs"}, CohortError, "no endpoint 'pfs'"),
        ({"thresholds": (0.5, 0.1)}, PredictionsError, "0 < from < to < 1"),
        ({"covariates": ["grade"]}, CohortError, "no column 'grade' is declared"),
        ({"subgroups": ["grade"]}, CohortError, "no column 'grade' is declared"),
    ],
)
def test_options_that_fit_nothing_are_refused(workspace, fitted, options, kind, told):
    path = save(fitted.assign(model="new"), workspace.root)
    with pytest.raises(kind, match=told):
        report_predictions(path, cohort="lung", workspace=workspace, **options)


def test_a_file_that_is_not_there_is_a_clear_error(workspace):
    with pytest.raises(StormClinicError, match="no such file"):
        report_predictions(workspace.root / "gone.csv", cohort="lung", workspace=workspace)


def test_patients_are_divided_by_scanner_and_several_scanners_are_a_group(workspace, lung, fitted):
    folder = workspace.cohorts / "lung"
    manifest = folder / "cohort.yaml"
    slides = "  slides: {path: slides.csv, patient_id: subject, slide_id: slide}\n"
    manifest.write_text(MANIFEST.replace("site: inst", f"{slides}site: inst"), encoding="utf-8")
    rows = [
        (f"S{at}", who, "leica" if at % 2 else "aperio") for at, who in enumerate(lung["subject"])
    ]
    rows.append(("again", lung["subject"][0], "leica"))
    table = pd.DataFrame(rows, columns=["slide", "subject", "scanner"]).assign(path="")
    table.to_csv(folder / "slides.csv", index=False)
    report = report_predictions(
        save(fitted, workspace.root), cohort="lung", subgroups=["scanner"], workspace=workspace
    )
    [found, *_] = report.content.validation[0].analyses.subgroups
    counts = {stratum.label: stratum.n_patients for stratum in found.strata}
    # The patient without a prediction had one of them.
    assert sum(counts.values()) == 227
    assert (counts["several scanners"], set(counts)) == (1, {"aperio", "leica", "several scanners"})
