"""Evidence keeps its promises: finite or explained numbers, equal after JSON, strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from storm_clinic.errors import InputError, StatisticsError
from storm_clinic.files import digest_value
from storm_clinic.validation.evidence import Check, ConfusionMatrix, Estimate, Evidence

MakeEstimate = Callable[..., Estimate]


@pytest.fixture
def evidence(estimate: MakeEstimate) -> Evidence:
    return Evidence(
        study="s",
        study_digest="d",
        kind="external",
        candidate="fusion",
        comparator="clinical",
        estimates=(
            estimate(),
            estimate(model="clinical"),
            estimate("c_index_gain", over="clinical", value=0.02, lower=-0.01, upper=0.05),
            estimate("auc", horizon_months=12.0),
            estimate("auc", horizon_months=36.0, value=None, lower=None, upper=None, note="short"),
        ),
        checks=(Check(code="SC101", title="t", status="pass", reason="r"),),
    )


def test_json_and_back_gives_an_equal_object(evidence):
    text = json.dumps(evidence.to_json(), allow_nan=False)
    again = Evidence.from_json(json.loads(text))
    assert again == evidence
    assert again.digest == evidence.digest


def test_a_written_file_holds_null_where_a_number_is_missing(evidence, tmp_path: Path):
    evidence.write(tmp_path / "evidence.json")
    document = json.loads((tmp_path / "evidence.json").read_text())
    assert document["estimates"][-1]["value"] is None
    assert document["estimates"][-1]["note"] == "short"


def test_another_number_gives_another_digest(evidence, estimate):
    changed = evidence.model_copy(update={"estimates": (estimate(value=0.71),)})
    assert changed.digest != evidence.digest


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(estimate, bad):
    with pytest.raises(ValidationError, match="finite"):
        estimate(value=bad)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lower": None}, "both ends or none"),
        ({"value": None}, "interval without a value"),
        ({"lower": None, "upper": None}, "reason in note"),
        ({"value": None, "lower": None, "upper": None}, "reason in note"),
        ({"lower": 0.8, "upper": 0.6}, "backwards"),
        ({"n_events": -1}, "greater than or equal to 0"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_a_dishonest_estimate_is_refused(estimate, changes, words):
    with pytest.raises(ValidationError, match=words):
        estimate(**changes)


def test_a_missing_interval_with_its_reason_is_kept(estimate):
    alone = estimate(lower=None, upper=None, note="too few events")
    assert alone.value == 0.7
    assert alone.note == "too few events"


def test_a_check_without_a_code_of_ours_is_refused():
    with pytest.raises(ValidationError, match="code"):
        Check(code="101", title="t", status="pass", reason="r")


def test_an_unknown_key_in_a_file_is_named(evidence):
    document = evidence.to_json() | {"estimate": []}
    with pytest.raises(InputError, match="did you mean 'estimates'"):
        Evidence.from_json(document, where="evidence.json")


def test_find_agrees_with_every_condition(evidence):
    assert [e.model for e in evidence.find("c_index")] == ["fusion", "clinical"]
    assert [e.metric for e in evidence.find(over="clinical")] == ["c_index_gain"]
    assert evidence.find("auc", horizon_months=24.0) == []
    assert len(evidence.find(cohort="b")) == 5


def test_one_gives_the_only_estimate(evidence):
    assert evidence.one("auc", horizon_months=12.0).value == 0.7


@pytest.mark.parametrize("metric", ["auc", "brier"])
def test_one_refuses_several_and_none(evidence, metric):
    with pytest.raises(StatisticsError, match="not one"):
        evidence.one(metric)


def test_cohorts_and_models_are_listed_once(evidence):
    assert evidence.cohorts == ("b",)
    assert evidence.models == ("fusion", "clinical")


def test_evidence_that_was_sealed_before_later_fields_came_keeps_its_digest(evidence):
    # The keys of the first format; a digest of them is in trails that nobody can rewrite.
    estimate_keys = (
        "metric value lower upper n_patients n_events method cohort model over horizon_months note"
    )
    keys = (
        "format study study_digest kind candidate comparator estimates checks risk_groups "
        "calibration classes digests notes"
    )
    document = evidence.to_json()
    assert set(document) == set(keys.split())
    assert all(set(e) == set(estimate_keys.split()) for e in document["estimates"])
    assert Evidence.from_json(document).digest == digest_value(document)


def test_later_fields_are_written_where_they_say_something(evidence, estimate):
    matrix = ConfusionMatrix(cohort="b", model="m", levels=("x", "y"), counts=((1, 2), (3, 4)))
    later = evidence.model_copy(
        update={"confusion": (matrix,), "estimates": (estimate("auroc", level="x"),)}
    )
    again = Evidence.from_json(json.loads(json.dumps(later.to_json())))
    assert again == later
    assert again.one("auroc", level="x").level == "x"
    assert again.confusion[0].counts[1][0] == 3


def test_seconds_lie_beside_the_evidence_and_change_neither_it_nor_its_digest(evidence, tmp_path):
    timed = evidence.model_copy(update={"seconds": {"fusion": 12.5}})
    evidence.write(tmp_path / "plain" / "evidence.json")
    timed.write(tmp_path / "timed" / "evidence.json")
    plain, other = (tmp_path / name / "evidence.json" for name in ("plain", "timed"))
    assert plain.read_bytes() == other.read_bytes()
    assert not plain.with_name("timings.json").exists()
    assert Evidence.read(other).seconds == {"fusion": 12.5}
    assert Evidence.read(plain).seconds == {}
    assert timed == evidence
    assert timed.digest == evidence.digest


def test_timings_that_are_none_are_refused_by_name(evidence, tmp_path):
    evidence.write(tmp_path / "evidence.json")
    (tmp_path / "timings.json").write_text('{"models": {"fusion": {"cross_validation": -1}}}')
    with pytest.raises(InputError, match=r"timings\.json"):
        Evidence.read(tmp_path / "evidence.json")
