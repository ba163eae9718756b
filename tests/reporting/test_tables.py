"""Tables: nothing dropped in silence, and no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO

import pytest

from storm_clinic.reporting.cohort_tables import cohort_table, flow_table
from storm_clinic.reporting.content import CohortSummary, FlowStep, VariableRow
from storm_clinic.reporting.curve_tables import risk_group_table
from storm_clinic.reporting.performance_tables import horizon_table, performance_tables
from storm_clinic.reporting.record_tables import claims_table, provenance_table
from storm_clinic.reporting.tables import Footnotes, to_csv
from storm_clinic.validation.evidence import CohortOutcome, GroupCurve, RiskGroupCurves


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


@pytest.mark.parametrize(
    "attack", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1"]
)
def test_text_that_starts_like_a_formula_is_made_harmless(attack):
    [row] = read(to_csv([{"name": attack}]))
    assert row["name"].startswith("'")


def test_a_carriage_return_inside_a_cell_starts_no_row_of_its_own():
    text = to_csv([{"name": "harmless\r=1+1"}])
    assert "\r" not in text
    assert read(text) == [{"name": "harmless\n=1+1"}]


def test_a_columns_name_is_made_harmless_too():
    [row] = read(to_csv([{"=1+1": "x"}]))
    assert list(row) == ["'=1+1"]


def test_numbers_stay_numbers_even_below_zero():
    [row] = read(to_csv([{"value": -0.25, "n": 3, "missing": None}]))
    assert row == {"value": "-0.25", "n": "3", "missing": ""}


def test_records_with_other_columns_share_one_header():
    assert to_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"


def test_a_reason_has_one_letter_however_often_it_is_needed():
    notes = Footnotes()
    marks = [notes.mark(reason) for reason in ("short", "few", "short")]
    assert marks == ["a", "b", "a"]
    assert notes.all() == (("a", "short"), ("b", "few"))
    many = Footnotes()
    assert [many.mark(str(i)) for i in range(28)][-3:] == ["z", "aa", "ab"]


def test_every_reason_of_the_flow_has_a_line_in_the_csv():
    cohort = CohortSummary(
        "c",
        "development",
        8,
        3,
        flow=(
            FlowStep("with outcome", "patients", 12, 10, (("no status", 1), ("time of zero", 1))),
            FlowStep("with slides", "patients", 10, 10),
        ),
    )
    rows = read(flow_table(cohort, "flow").to_csv())
    assert [(r["step"], r["reason"], r["n"]) for r in rows] == [
        ("with outcome", "no status", "1"),
        ("with outcome", "time of zero", "1"),
        ("with slides", "", "0"),
    ]


def test_patients_who_left_without_a_reason_are_not_passed_over():
    cohort = CohortSummary("c", "development", 1, 1, flow=(FlowStep("x", "patients", 5, 1),))
    [row] = flow_table(cohort, "flow").rows
    assert row.cells[-1].text == "not recorded"


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_cohorts_stand_side_by_side_with_what_is_missing():
    a = CohortSummary(
        "a",
        "development",
        200,
        50,
        variables=(
            VariableRow("age", "", "61 (52 to 70)", 3),
            VariableRow("stage", "I", "100 (52%)", 8),
            VariableRow("stage", "II", "92 (48%)"),
        ),
    )
    b = replace(a, name="b", role="validation", variables=a.variables[:1])
    lines = texts(cohort_table([a, b], {}))
    assert ["With the event", "50 (25%)", "50 (25%)"] in lines
    assert ["age", "61 (52 to 70)", "61 (52 to 70)"] in lines
    at = lines.index(["age", "61 (52 to 70)", "61 (52 to 70)"])
    assert lines[at + 1] == ["missing", "3 (2%)", "3 (2%)"]
    # b does not describe stage: a dash, not a zero.
    assert ["I", "100 (52%)", "–"] in lines
    assert ["missing", "8 (4%)", "–"] in lines


def test_each_of_several_classes_has_a_line_of_its_own():
    a = CohortSummary("a", "development", 200, 50)
    b = replace(a, name="b", role="validation", n_patients=100)
    graded = [
        CohortOutcome(cohort=name, kind="classes", names=("low", "high"), counts=counts)
        for name, counts in (("a", (150, 50)), ("b", (60, 40)))
    ]
    lines = texts(cohort_table([a, b], {found.cohort: found for found in graded}))
    assert lines[1:3] == [
        ["Class low", "150 (75%)", "60 (60%)"],
        ["Class high", "50 (25%)", "40 (40%)"],
    ]
    assert not any(line[0] == "With the event" for line in lines)


def test_every_model_has_a_row_and_the_comparator_is_the_reference(validated):
    [evidence] = validated.validation
    table = performance_tables(validated, evidence, "hospital_b", "t")[0]
    assert [row.cells[0].text for row in table.rows] == ["clinical", "abmil", "fusion"]
    header = [cell.text for cell in table.header]
    gain = header.index("Gain in C-index over clinical")
    assert table.rows[0].cells[gain].text == "reference"
    shown = evidence.one("c_index_gain", model="fusion", over="clinical")
    assert table.rows[2].cells[gain].text == f"{shown.value:+.3f}"


def test_the_csv_holds_what_the_page_rounds(validated):
    [evidence] = validated.validation
    table = performance_tables(validated, evidence, "hospital_b", "t")[0]
    rows = read(table.to_csv())
    [row] = [r for r in rows if (r["metric"], r["model"]) == ("c_index", "fusion")]
    assert float(row["value"]) == evidence.one("c_index", model="fusion").value


def test_a_wide_table_is_split_into_ranking_and_error(binary):
    [evidence] = binary.validation
    tables = performance_tables(binary, evidence, "their_clinic", "t")
    headers = [[cell.text for cell in table.header] for table in tables]
    assert headers[0][:3] == ["Model", "AUROC", "Gain in AUROC over nomogram"]
    assert headers[1][1] == "Brier score"
    shown = sum(len(table.records) for table in tables)
    assert shown == len([e for e in evidence.estimates if e.over in (None, "nomogram")])


def test_a_gap_in_the_table_points_to_its_reason(validated):
    [evidence] = validated.validation
    gap = evidence.one("auc", model="abmil", horizon_months=12.0).model_copy(
        update={"value": None, "lower": None, "upper": None, "note": "nobody followed"}
    )
    changed = tuple(
        gap if (e.metric, e.model, e.horizon_months) == ("auc", "abmil", 12.0) else e
        for e in evidence.estimates
    )
    table = horizon_table(
        validated, evidence.model_copy(update={"estimates": changed}), "hospital_b", "t"
    )
    assert table.notes == (("a", "nobody followed"),)
    cells = [cell for row in table.rows for cell in row.cells if cell.mark]
    assert [(cell.text, cell.mark) for cell in cells] == [("–", "a")]


def test_claims_stand_with_what_was_found(validated, no_gain):
    met = [row.cells[1].text for row in claims_table(validated).rows]
    assert met == ["met", "met", "met"]
    assert claims_table(no_gain).rows[1].cells[1].text == "not met"


def test_provenance_names_the_evidence_itself(validated):
    [evidence] = validated.validation
    values = [row.cells[2].text for row in provenance_table(validated).rows]
    assert evidence.digest in values
    assert evidence.study_digest in values


@pytest.mark.parametrize(("last", "text"), [(0.0, "0%"), (0.25, "not followed")])
def test_a_group_past_its_follow_up_is_known_only_where_nobody_is_left(last, text):
    group = GroupCurve(
        label="high",
        n_patients=4,
        n_events=3,
        months=(0.0, 10.0),
        survival=(1.0, last),
        lower=(1.0, 0.0),
        upper=(1.0, 0.5),
        at_risk=(4, 0),
    )
    curves = RiskGroupCurves(
        cohort="c", model="m", thresholds=(), ticks_months=(0.0, 12.0), groups=(group,)
    )
    assert risk_group_table(curves, "t").rows[0].cells[-1].text == text
