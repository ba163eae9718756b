"""Drift of features: found where it is, by scanner and site, and not where it is not. Simulated."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from storm_clinic.features.reference import FeatureReference
from storm_clinic.inference.energy_distance import energy_test
from storm_clinic.validation.analyses import Analyses, DriftComparison, FeatureDrift
from storm_clinic.validation.checks import CheckInput, run_checks
from storm_clinic.validation.feature_drift import feature_drift


def embeddings(n: int, seed: int, width: int = 20) -> np.ndarray:
    scale = 1 / np.arange(1, width + 1) ** 0.8
    return np.random.default_rng(seed).normal(size=(n, width)) * scale


@pytest.fixture(scope="module")
def reference() -> FeatureReference:
    return FeatureReference.of(embeddings(300, 1), seed=1)


def drift_of(reference: FeatureReference, means: np.ndarray, **divisions) -> FeatureDrift:
    return feature_drift(
        reference, means, cohort="b", features="image", divisions=divisions, seed=3
    )


@pytest.fixture(scope="module")
def scanned(reference) -> FeatureDrift:
    """Ninety patients, thirty of them from a scanner that shifts every feature."""
    means = embeddings(90, 12)
    means[60:] += 0.9
    sites = ["A"] * 50 + ["B"] * 36 + ["C"] * 4
    scanners = ["X"] * 58 + [None] * 2 + ["Y"] * 30
    return drift_of(reference, means, scanner=scanners, site=sites)


def groups(drift: FeatureDrift) -> dict[str, DriftComparison]:
    return {group.label: group for group in drift.comparisons}


def test_a_scanner_that_differs_is_told_from_one_that_does_not(scanned):
    found = groups(scanned)
    assert found["Y"].p_adjusted < 0.01
    assert found["Y"].share_outside > 0.5
    assert found["X"].p_adjusted > 0.05
    assert found["X"].share_outside < 0.1
    assert found["b"].p_adjusted < 0.01
    assert found["Y"].coefficient > 4 * found["X"].coefficient


def test_everybody_comes_first_then_scanners_and_sites_by_size(scanned):
    listed = [(group.division, group.label, group.n_patients) for group in scanned.comparisons]
    assert listed == [
        ("all", "b", 90),
        ("scanner", "X", 58),
        ("scanner", "Y", 30),
        ("site", "A", 50),
        ("site", "B", 36),
        ("site", "C", 4),
    ]


def test_a_small_site_is_listed_with_the_reason_and_who_has_no_scanner_is_counted(scanned):
    small = groups(scanned)["C"]
    assert small.note == "fewer than 10 patients are not compared"
    assert (small.p, small.n_outside, small.distance) == (None, None, None)
    assert "2 patients without a known scanner" in scanned.note


def test_p_values_of_a_cohort_are_one_family(scanned):
    tested = [group for group in scanned.comparisons if group.p is not None]
    assert len(tested) == 5
    expected = multipletests([group.p for group in tested], method="holm")[1]
    assert [group.p_adjusted for group in tested] == pytest.approx(list(expected))


def test_more_features_than_patients_do_not_make_new_patients_of_the_same_kind_look_strange():
    scale = 1 / np.sqrt(np.arange(1, 401))
    drifted = []
    for seed in range(60):
        x = np.random.default_rng(seed).normal(size=(140, 400)) * scale
        reference = FeatureReference.of(x[:80], seed=seed)
        projected = reference.project(x[80:])
        drifted.append(energy_test(reference.sample, projected, permutations=199).p <= 0.05)
    # The test is exact: 5%, give or take four standard errors. Against the patients to whom the
    # axes were fitted, nearly every new cohort would seem to differ.
    assert np.mean(drifted) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 60)


def test_one_scanner_for_all_is_not_compared_twice(reference):
    found = drift_of(reference, embeddings(30, 4), scanner=["X"] * 30)
    assert [group.division for group in found.comparisons] == ["all"]
    assert found.comparisons[0].p_adjusted is None
    assert found.note == "all patients are of one scanner, X"


def test_patients_without_tiles_are_left_out_and_counted(reference):
    means = embeddings(30, 4)
    means[:3] = np.nan
    found = drift_of(reference, means, site=["A"] * 15 + ["B"] * 15)
    assert groups(found)["b"].n_patients == 27
    assert groups(found)["A"].n_patients == 12
    assert "3 patients without these features" in found.note


def test_of_many_patients_some_are_tested_and_all_are_looked_at(reference):
    means = embeddings(700, 5)
    means[::7] += 50.0  # a hundred
    [found] = drift_of(reference, means).comparisons
    assert found.n_patients == 700
    assert 100 <= found.n_outside <= 115
    assert "512 patients at random" in found.note
    assert found.p == 1 / 10_000


def test_nine_patients_are_not_compared_at_all(reference):
    found = drift_of(reference, embeddings(9, 6))
    check = judged(found)
    assert check.status == "not applicable"
    assert check.reason == "b: fewer than 10 patients are not compared"


def judged(*drift: FeatureDrift):
    asked = CheckInput("external", (), (), "fusion", None, analyses=Analyses(drift=drift))
    return next(check for check in run_checks(asked) if check.code == "SC127")


def comparison(division: str, label: str, outside: int, p: float, n: int = 50) -> DriftComparison:
    return DriftComparison(
        division=division, label=label, n_patients=n, distance=0.2, coefficient=0.1, p=p,
        p_adjusted=p, n_outside=outside,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("whole", "site", "status", "reason"),
    [
        ((1, 0.4), (0, 0.9), "pass", "no difference was shown; outside: 1 of 50 patients of b"),
        ((5, 0.4), (1, 0.9), "pass", "5 of 50"),
        ((6, 0.4), (1, 0.9), "warn", "outside of what development has shown: 6 of 50"),
        ((1, 0.4), (6, 0.9), "warn", "6 of 50 patients of A in b"),
        ((1, 0.049), (1, 0.9), "warn", r"differing as a group: b \(energy distance 0.20, p = 0.04"),
        ((1, 0.4), (1, 0.0001), "warn", r"A in b \(energy distance 0.20, p < 0.001\)"),
        ((25, 0.0001), (50, 0.0001), "warn", "25 of 50"),
        ((26, 0.4), (1, 0.9), "fail", "26 of 50"),
    ],
)
def test_the_check_warns_of_a_difference_and_fails_where_most_are_outside(
    whole, site, status, reason
):
    drift = FeatureDrift(
        cohort="b",
        features="image",
        comparisons=(comparison("all", "b", *whole), comparison("site", "A", *site)),
    )
    found = judged(drift)
    assert found.status == status
    assert re.search(reason, found.reason)


def test_the_check_does_not_apply_where_nothing_was_compared_and_says_why():
    assert judged().status == "not applicable"
    assert "no model sees slides" in judged().reason
    old = judged(FeatureDrift(cohort="b", features="image", note="trained before records"))
    assert (old.status, old.reason) == ("not applicable", "b: trained before records")


def test_drift_comes_back_from_json_and_evidence_without_it_is_written_as_before(scanned):
    document = json.loads(json.dumps(Analyses(drift=(scanned,)).model_dump(mode="json")))
    assert Analyses.model_validate(document).drift == (scanned,)
    assert Analyses().model_dump(mode="json") == {}
