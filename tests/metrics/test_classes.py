"""Several classes: against scikit-learn, by brute force, and against the binary metrics."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from storm_clinic.cohort.outcome import Classes
from storm_clinic.errors import NoComparablePairs, StatisticsError
from storm_clinic.metrics import overall
from storm_clinic.metrics.classes import (
    balanced_accuracy,
    log_score,
    macro_auroc,
    multiclass_brier,
    multiclass_brier_scaled,
    one_against_rest,
)
from storm_clinic.metrics.discrimination import auroc

METRICS = {
    "auroc_macro": macro_auroc,
    "balanced_accuracy": balanced_accuracy,
    "brier_multiclass": multiclass_brier,
    "brier_scaled": multiclass_brier_scaled,
    "log_score": log_score,
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
LEVELS = ("low", "middle", "high")


def drawn(seed: int, n: int = 120, levels: tuple[str, ...] = LEVELS) -> tuple[Classes, np.ndarray]:
    rng = np.random.default_rng(seed)
    raw = np.round(rng.normal(size=(n, len(levels))), 1)  # ties
    p = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    label = np.array([rng.choice(len(levels), p=row) for row in p], dtype=np.int64)
    return Classes(label, levels), p


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_scikit_learns(seed):
    outcome, p = drawn(seed)
    assert macro_auroc(outcome, p).value == pytest.approx(
        roc_auc_score(outcome.label, p, multi_class="ovr", average="macro")
    )
    assert log_score(outcome, p).value == pytest.approx(log_loss(outcome.label, p))
    called = p.argmax(axis=1)
    expected = balanced_accuracy_score(outcome.label, called)
    assert balanced_accuracy(outcome, p).value == pytest.approx(expected)


def test_briers_score_by_its_definition_and_scaled_by_the_shares():
    outcome = Classes(np.array([0, 1, 2, 2]), LEVELS)
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    error = np.mean([0.25 + 0.09 + 0.04, 0.01 + 0.04 + 0.01, 0.0, 2.0])
    assert multiclass_brier(outcome, p).value == pytest.approx(error)
    of_shares = 1 - (0.25**2 + 0.25**2 + 0.5**2)
    assert multiclass_brier_scaled(outcome, p).value == pytest.approx(1 - error / of_shares)


def test_of_two_classes_they_are_the_binary_numbers():
    outcome, p = drawn(1, levels=("no", "yes"))
    event = np.round(p[:, 1] * 64) / 64  # exact in binary, so that both classes have the same ties
    p = np.stack([1 - event, event], axis=1)
    assert macro_auroc(outcome, p).value == pytest.approx(auroc(outcome, event).value)
    assert multiclass_brier(outcome, p).value == pytest.approx(
        2 * overall.brier(outcome, event).value
    )
    assert multiclass_brier_scaled(outcome, p).value == pytest.approx(
        overall.brier_scaled(outcome, event).value
    )


@every_metric
def test_a_weight_counts_as_so_many_patients(metric):
    outcome, p = drawn(2)
    copies = np.random.default_rng(2).integers(0, 3, len(p))
    at = np.repeat(np.arange(len(p)), copies)
    weighted = metric(outcome, p).under(copies[None].astype(float))[0]
    assert weighted == pytest.approx(metric(outcome.take(at), p[at]).value)


@every_metric
def test_neither_the_order_of_patients_nor_of_classes_matters(metric):
    outcome, p = drawn(3)
    p = p + 1e-6 * np.arange(3)  # no ties: of equals the earlier class counts
    p /= p.sum(axis=1, keepdims=True)
    order, moved = np.array([2, 0, 1]), np.random.default_rng(3).permutation(len(p))
    place = np.argsort(order)
    relabelled = Classes(place[outcome.label], tuple(LEVELS[k] for k in order))
    again = metric(relabelled.take(moved), p[moved][:, order])
    assert again.value == pytest.approx(metric(outcome, p).value)


def test_within_folds_the_pairs_of_a_class_are_pooled():
    outcome, p = drawn(4)
    fold = np.arange(len(p)) % 3
    areas = []
    for k in range(3):
        credit = pairs = 0.0
        for i in np.flatnonzero(outcome.label == k):
            for j in np.flatnonzero((outcome.label != k) & (fold == fold[i])):
                pairs += 1
                credit += (p[i, k] > p[j, k]) + 0.5 * (p[i, k] == p[j, k])
        areas.append(credit / pairs)
    assert macro_auroc(outcome, p, within=fold).value == pytest.approx(np.mean(areas))


def test_a_class_against_the_rest_keeps_its_patients():
    outcome, _ = drawn(5)
    alone = one_against_rest(outcome, "middle")
    assert alone.levels == ("not middle", "middle")
    assert alone.n_events == (outcome.label == 1).sum()


def test_a_resample_without_a_class_gives_no_number_and_not_a_wrong_one():
    outcome, p = drawn(6)
    without = (outcome.label != 1).astype(float)[None]
    assert np.isnan(macro_auroc(outcome, p).under(without)[0])
    assert np.isnan(balanced_accuracy(outcome, p).under(without)[0])


def test_what_cannot_be_said_is_refused_with_its_reason():
    outcome = Classes(np.array([0, 0, 1, 1]), LEVELS)
    p = np.full((4, 3), 1 / 3)
    with pytest.raises(NoComparablePairs, match="0 of 4 patients are 'high'"):
        macro_auroc(outcome, p)
    with pytest.raises(StatisticsError, match="no patient is 'high'"):
        balanced_accuracy(outcome, p)
    with pytest.raises(StatisticsError, match="probability 0: the log score is infinite"):
        log_score(outcome, np.tile([0.0, 0.5, 0.5], (4, 1)))
    with pytest.raises(
        StatisticsError, match=r"do not sum to 1, the first in row 2 \(0\.5, 0, 0\)"
    ):
        multiclass_brier(outcome, np.vstack([p[:2], [[0.5, 0, 0]], p[:1]]))
