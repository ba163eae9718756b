"""What the planted truth reaches, held against other libraries, and stated where readers look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sksurv.metrics import concordance_index_censored, cumulative_dynamic_auc

from storm_clinic.simulate.competing import true_incidence
from storm_clinic.simulate.grade import grade_probabilities
from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import (
    AGE_EFFECT,
    MORPHOLOGY_EFFECT,
    STAGE_EFFECT,
    simulate_patients,
)
from storm_clinic.simulate.truth import ceiling_table, ceilings, expected_ceilings


def value(found, endpoint, metric, knows="everything", horizon=None):
    (ceiling,) = [
        c
        for c in found
        if (c.endpoint, c.metric, c.knows, c.horizon_months) == (endpoint, metric, knows, horizon)
    ]
    return ceiling.value


@pytest.fixture(scope="module")
def few():
    """The second hospital, as the demo makes it, and what truth reaches there."""
    patients = simulate_patients(HOSPITALS[1], np.random.default_rng((20261123, 1)))
    return patients, ceilings(patients)


def test_ranks_of_progression_are_those_of_scikit_survival(few):
    patients, found = few
    hidden, outcome = patients.hidden, patients.outcomes["pfs"]
    risk = (
        MORPHOLOGY_EFFECT * hidden["score"]
        + AGE_EFFECT * hidden["age"] / 10
        + STAGE_EFFECT * hidden["stage"]
    ).to_numpy()
    # Pairs that open from month 36 on do not count: all follow-up ends there.
    ends, event = np.minimum(outcome.time_months, 36), outcome.event & (outcome.time_months < 36)
    assert value(found, "pfs", "c_index") == pytest.approx(
        concordance_index_censored(event, ends, risk)[0]
    )
    (area,), _ = cumulative_dynamic_auc(
        outcome.to_structured(), outcome.to_structured(), risk, [24.0]
    )
    assert value(found, "pfs", "auc", horizon=24.0) == pytest.approx(area, abs=0.01)


def test_areas_of_classes_are_those_of_scikit_learn(few):
    patients, found = few
    score = patients.hidden["score"].to_numpy()
    grade, response = patients.outcomes["grade"].label, patients.outcomes["response"].label
    macro = roc_auc_score(grade, grade_probabilities(score), multi_class="ovr")
    assert value(found, "grade", "auroc_macro") == pytest.approx(macro)
    assert value(found, "response", "auroc") == pytest.approx(roc_auc_score(response, -score))


def test_a_patient_who_died_stays_among_those_without_relapse(few):
    """By brute force over pairs, until the closing day, which only the simulation knows."""
    patients, found = few
    outcome, hidden = patients.outcomes["outcome"], patients.hidden
    risk = true_incidence(hidden["score"].to_numpy(), hidden["age"].to_numpy(), np.array([12.0]))[
        0, :, 0
    ]
    free = np.where(outcome.cause == 2, hidden["outcome_follow_up"], outcome.time_months)
    won = pairs = 0.0
    for i in np.flatnonzero((outcome.cause == 1) & (outcome.time_months < 36)):
        later = (free > free[i]) | ((free == free[i]) & (outcome.cause != 1))
        pairs += later.sum()
        won += (risk[i] > risk[later]).sum()
    assert value(found, "outcome", "c_index") == pytest.approx(won / pairs)


def test_genes_rank_those_who_were_measured(few):
    patients, found = few
    genes = patients.rna.set_index("patient")[["SIM01", "SIM02", "SIM03", "SIM04", "SIM05"]]
    of = dict(zip(patients.table["patient"], range(len(patients.table)), strict=True))
    seen = patients.outcomes["pfs"].take([of[name] for name in genes.index])
    ends, event = np.minimum(seen.time_months, 36), seen.event & (seen.time_months < 36)
    c_index = concordance_index_censored(event, ends, genes.astype(float).mean(axis=1))[0]
    assert value(found, "pfs", "c_index", "rna") == pytest.approx(c_index)
    on_many = [value(expected_ceilings(), "pfs", "c_index", who) for who in ("slides", "rna")]
    assert 0.65 < on_many[1] < on_many[0]


@pytest.mark.parametrize("endpoint", ["pfs", "outcome"])
def test_who_knows_less_ranks_worse(endpoint):
    found = expected_ceilings()
    for metric, horizon in (("c_index", None), ("auc", 12.0), ("auc", 24.0)):
        everything, slides, covariates = (
            value(found, endpoint, metric, knows, horizon)
            for knows in ("everything", "slides", "covariates")
        )
        assert everything > slides > covariates > 0.5


def test_expected_values_are_those_of_any_many_patients():
    many = replace(HOSPITALS[1], n_patients=20_000)
    again = ceilings(simulate_patients(many, np.random.default_rng(99)))
    for one, other in zip(again, expected_ceilings(), strict=True):
        assert replace(one, value=other.value) == other
        assert one.value == pytest.approx(other.value, abs=0.01)


def test_the_table_has_every_ceiling_once():
    table = ceiling_table(20261123)
    assert not table.duplicated(["endpoint", "metric", "horizon_months", "knows"]).any()
    assert list(table.columns[-4:]) == ["expected", "demo_a", "demo_b", "demo_c"]
    # On so few patients truth itself comes out up to 0.1 better or worse than on many.
    full = table[table["knows"] == "everything"]
    for cohort in ("demo_a", "demo_b"):
        assert (full[cohort] - full["expected"]).abs().max() < 0.1


def test_the_page_and_the_datasheets_state_these_numbers():
    repository = Path(__file__).resolve().parent.parent.parent
    page = (repository / "docs" / "simulation.md").read_text(encoding="utf-8")
    for row in ceiling_table(20261123).fillna({"horizon_months": ""}).itertuples():
        month = f"{row.horizon_months:.0f}" if row.horizon_months else ""
        values = " | ".join(f"{number:.2f}" for number in (row.expected, row.demo_a, row.demo_b))
        what = f"| `{row.endpoint}` | `{row.metric}` |"
        assert f"{what} {month} | {row.knows} | {values} |" in page
        if row.knows == "everything" and not month:
            for cohort in ("demo_a", "demo_b"):
                datasheet = (repository / "cohorts" / cohort / "README.md").read_text("utf-8")
                assert f"{what} {row.expected:.2f} |" in datasheet
