from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import DAYS_PER_MONTH, Classes, CompetingRisks, Survival
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import OutcomeError

OS = "os: {kind: survival, time: days, unit: days, event: died, codes: {0: censored, 1: event}}"


def test_everyone_without_an_outcome_has_a_reason(hospital):
    table = hospital.outcome("os")
    assert table.patient_ids == ("P1", "P2", "P3", "P4")
    excluded = table.attrition.excluded()
    assert dict(zip(excluded["id"], excluded["reason"], strict=True)) == {
        "P5": "time is zero",
        "P6": "how follow-up ended is recorded, but no time",
        "P7": "a time is recorded, but not how follow-up ended",
    }


def test_months_inside_whatever_the_table_counts(write_cohort):
    for unit, per_month in (("days", 1 / DAYS_PER_MONTH), ("months", 1.0), ("years", 12.0)):
        cohort = Cohort.read("hospital", write_cohort(("unit: days", f"unit: {unit}")))
        outcome = cohort.outcome("os").outcome
        assert isinstance(outcome, Survival)
        expected = np.array([300, 200, 100, 50]) * per_month
        np.testing.assert_allclose(outcome.time_months, expected, rtol=1e-12)
        assert outcome.event.tolist() == [True, False, True, False]


def test_competing_causes_are_numbered_in_the_declared_order(write_cohort):
    competing = (
        "os: {kind: competing, time: days, unit: days, event: died, causes: [other, disease], "
        "codes: {0: censored, 1: disease, 2: other}}"
    )
    workspace = write_cohort((OS, competing), ("200,0,North", "200,2,North"))
    outcome = Cohort.read("hospital", workspace).outcome("os").outcome
    assert isinstance(outcome, CompetingRisks)
    assert outcome.causes == ("other", "disease")
    assert outcome.cause.tolist() == [2, 1, 2, 0]


def test_classes_keep_the_declared_order(write_cohort):
    classes = "os: {kind: classes, from: died, levels: [no, yes], codes: {0: no, 1: yes}}"
    table = Cohort.read("hospital", write_cohort((OS, classes))).outcome("os")
    assert isinstance(table.outcome, Classes)
    # A class needs no time: P5 and P6 count, P7 has none.
    assert table.patient_ids == ("P1", "P2", "P3", "P4", "P5", "P6")
    assert table.outcome.label.tolist() == [1, 0, 1, 0, 0, 1]
    assert table.attrition.table()["reason"].tolist() == ["no class recorded"]


def test_late_entry_is_kept_and_impossible_entry_left_out(write_cohort):
    clinical = (
        "id,age,stage,sex,days,died,centre,entry\n"
        "P1,61,I,F,300,1,N,30\nP2,61,I,F,300,1,N,300\nP3,61,I,F,300,1,N,\nP4,61,I,F,300,0,N,0\n"
    )
    edit = (OS, OS.replace("event: died", "event: died, entry: entry"))
    table = Cohort.read("hospital", write_cohort(edit, clinical=clinical)).outcome("os")
    assert isinstance(table.outcome, Survival)
    assert table.outcome.entry_months is not None
    np.testing.assert_allclose(table.outcome.entry_months, [30 / DAYS_PER_MONTH, 0])
    assert table.attrition.excluded()[["id", "reason"]].to_numpy().tolist() == [
        ["P2", "entry is not before the end of follow-up"],
        ["P3", "no time of entry"],
    ]


def test_a_cohort_in_which_nobody_has_the_outcome_says_so(write_cohort):
    clinical = "id,age,stage,sex,days,died,centre\nP1,61,I,F,,,N\nP2,61,I,F,0,1,N\n"
    cohort = Cohort.read("hospital", write_cohort(clinical=clinical))
    with pytest.raises(OutcomeError, match="endpoint os: no patient has this outcome"):
        cohort.outcome("os")
