from __future__ import annotations

import dataclasses

import pytest

from storm_clinic.cohort.attrition import Attrition, AttritionStep
from storm_clinic.errors import CohortError


def test_numbers_must_add_up():
    with pytest.raises(CohortError, match="10 patients less 1 are not 8"):
        AttritionStep("with outcome", "patients", 10, 8, (("P1", "no time"),))


def test_nobody_leaves_twice_in_one_step():
    twice = (("P1", "no time"), ("P1", "no event"))
    with pytest.raises(CohortError, match="left out twice"):
        AttritionStep("with outcome", "patients", 10, 8, twice)


def test_a_step_starts_with_what_the_one_before_left():
    first = Attrition.left_out("with outcome", ["P1", "P2", "P3"], {"P2": "no time"})
    with pytest.raises(CohortError, match="2 patients are left by 'with outcome', but 3 enter"):
        first.joined(Attrition.left_out("with slides", ["P1", "P2", "P3"], {}))


def test_slides_and_patients_are_counted_apart():
    patients = Attrition.left_out("with outcome", ["P1", "P2"], {"P2": "no time"})
    slides = Attrition.left_out("of known patients", ["S1", "S2", "S3"], {}, unit="slides")
    joined = patients.joined(slides).joined(Attrition.left_out("with slides", ["P1"], {}))
    assert [step.n_after for step in joined] == [1, 3, 1]


def test_the_table_counts_reasons_and_names_nobody():
    attrition = Attrition.left_out(
        "with outcome", ["P1", "P2", "P3", "P4"], {"P2": "no time", "P4": "no time", "P3": "zero"}
    ).joined(Attrition.left_out("with slides", ["P1"], {}))
    table = attrition.table()
    assert table.to_dict("split")["data"] == [
        ["with outcome", "patients", 4, 1, "no time", 2],
        ["with outcome", "patients", 4, 1, "zero", 1],
        ["with slides", "patients", 1, 1, "", 0],
    ]
    assert not table.isin(["P1", "P2", "P3", "P4"]).any(axis=None)
    assert attrition.excluded()["id"].tolist() == ["P2", "P3", "P4"]


def test_a_step_cannot_be_changed_afterwards():
    step = AttritionStep("with outcome", "patients", 1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.n_after = 0  # type: ignore[misc]
