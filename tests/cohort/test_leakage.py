from __future__ import annotations

import json

import pandas as pd
import pytest

from storm_clinic.cohort.leakage import Fingerprints, check_disjoint, check_within
from storm_clinic.errors import CohortError, LeakageError


def index(**slides: tuple[str | None, str]) -> pd.DataFrame:
    columns = ["slide_digest", "features_digest"]
    return pd.DataFrame.from_dict(slides, orient="index", columns=columns)


def development(label="dev") -> Fingerprints:
    table = index(s1=("q1", "f1"), s2=("q2", "f2"), s3=(None, "f3"))
    return Fingerprints.of(label, ["A", "B"], [["s1", "s2"], ["s3"]], table)


def test_cohorts_that_share_nothing_pass():
    other = Fingerprints.of("val", ["C"], [["t1"]], index(t1=("q9", "f9")))
    check_disjoint(development(), other)
    check_within(development())


def test_the_same_patient_in_both_is_refused():
    other = Fingerprints.of("val", ["C", "A"])
    with pytest.raises(LeakageError, match="dev and val share 1 patient: A"):
        check_disjoint(development(), other)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("q2", "f9"), r"share 1 slide \(of patients A and C\)"),
        (("q9", "f3"), r"share 1 feature array \(of patients B and C\)"),
        ((None, "f1"), r"share 1 feature array \(of patients A and C\)"),
    ],
)
def test_one_slide_under_two_names_is_found_by_its_digest(row, message):
    other = Fingerprints.of("val", ["C"], [["t1"]], index(t1=row))
    with pytest.raises(LeakageError, match=message):
        check_disjoint(development(), other)


def test_unknown_digests_are_not_equal_to_each_other():
    # Imported features do not know their slide; None must not match None, nor NaN or "".
    for unknown in (None, float("nan"), ""):
        one = Fingerprints.of("dev", ["A"], [["s"]], index(s=(unknown, "f1")))
        other = Fingerprints.of("val", ["B"], [["t"]], index(t=(unknown, "f2")))
        check_disjoint(one, other)


def test_ten_are_listed_and_all_are_counted():
    keys = [f"K{n:02d}" for n in range(14)]
    with pytest.raises(LeakageError, match=r"14 patients: K00, .*, K09 and 4 more") as caught:
        check_disjoint(Fingerprints.of("dev", keys), Fingerprints.of("val", keys[::-1]))
    assert "K10" not in str(caught.value)


def test_two_patients_with_one_slide_are_refused_within_a_cohort():
    table = index(s1=("q1", "f1"), s2=("q1", "f1"))
    data = Fingerprints.of("dev", ["A", "B"], [["s1"], ["s2"]], table)
    with pytest.raises(LeakageError, match=r"share 1 slide \(patients A = B\); 1 feature array"):
        check_within(data)
    # One patient may have the same slide twice: that is no leak.
    check_within(Fingerprints.of("dev", ["A"], [["s1", "s2"]], table))


def test_several_cohorts_are_checked_as_one():
    other = Fingerprints.of("dev2", ["C"], [["t1"]], index(t1=("q7", "f7")))
    both = Fingerprints.union("both", [development(), other])
    assert both.patient_keys == ("A", "B", "C")
    with pytest.raises(LeakageError, match="both and val share 1 slide"):
        check_disjoint(both, Fingerprints.of("val", ["D"], [["u"]], index(u=("q7", "f8"))))


def test_fingerprints_survive_json_and_hold_no_slide_ids():
    text = json.dumps(development().to_json())
    assert Fingerprints.from_json(json.loads(text)) == development()
    assert "s1" not in text
    with pytest.raises(CohortError, match="not fingerprints"):
        Fingerprints.from_json({})
    with pytest.raises(CohortError, match="damaged"):
        Fingerprints.from_json({"format": "storm-clinic-fingerprints", "format_version": 1})


def test_the_digest_of_features_depends_on_content_and_owner_only():
    table = index(s1=("q1", "f1"), s2=("q2", "f2"), s3=(None, "f3"))
    swapped = Fingerprints.of("x", ["B", "A"], [["s3"], ["s2", "s1"]], table)
    assert swapped.features_digest == development().features_digest
    moved = Fingerprints.of("x", ["A", "B"], [["s1"], ["s2", "s3"]], table)
    assert moved.features_digest != development().features_digest


def test_slides_without_features_cannot_be_fingerprinted():
    with pytest.raises(CohortError, match="1 slides of dev have no feature file"):
        Fingerprints.of("dev", ["A"], [["s1"]], index(s2=("q", "f")))
    with pytest.raises(CohortError, match="slides of 1 patients for 2 keys"):
        Fingerprints.of("dev", ["A", "B"], [["s1"]], index(s1=("q", "f")))
