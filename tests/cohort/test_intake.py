from __future__ import annotations

import pytest

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError, OutcomeError


@pytest.mark.parametrize(
    ("old", "new", "column", "problem", "cell"),
    [
        ("300,1,North", "300,2,North", "died", "not declared (declared: '0', '1')", "'2' in row 2"),
        ("200,0,North", "200,0:LIVING,North", "died", "not declared", "'0:LIVING' in row 3"),
        ("300,1", "-300,1", "days", "negative time", "'-300' in row 2"),
        ("300,1", "ten,1", "days", "no number", "'ten' in row 2"),
        ("300,1", "1e999,1", "days", "no number", "'1e999' in row 2"),
    ],
)
def test_a_wrong_outcome_names_file_column_and_row(write_cohort, old, new, column, problem, cell):
    with pytest.raises(OutcomeError) as caught:
        Cohort.read("hospital", write_cohort((old, new)))
    text = str(caught.value)
    assert f"clinical.csv: column '{column}' (endpoints.os." in text
    assert problem in text
    assert cell in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P1,61", "P1,old", "column 'age' (columns.age) holds what is no number: 'old' in row 2"),
        ("P1,61", "P1,nan", "'nan' in row 2"),
        ("70.5,II", '"70,5",II', "'70,5' in row 3"),
        ("70.5,II", "70,5,II", "the header has 7 columns, but not row 3"),
        ("III,M", "V,M", "column 'stage' (columns.stage.levels) holds what is not declared"),
        ("I,F,300", "I,F ,300", "'F ' in row 2"),
        ("300,1,North", "300,1,North ", "column 'centre' (site) begins or ends with a blank"),
        ("P4,55", "../P4,55", "column 'id' (tables.clinical.patient_id) holds an unsafe id: row 5"),
        ("P4,55", ",55", "holds an unsafe id: row 5"),
        ("P2,S3", "P2,.S3", "column 'slide' (tables.slides.slide_id) holds an unsafe id: row 4"),
        ("a/S1.svs", "../S1.svs", "leaves data_root: '../S1.svs' in row 2"),
        ("0.25,Aperio", "20x,Aperio", "column 'mpp' (tables.slides.mpp) holds what is no number"),
        ("P2,S3", "P2,S1", "1 slide has several rows that contradict each other: rows 2, 4 differ"),
        ("from: age, kind: c", "from: agee, kind: c", "no column 'agee', which columns.age asks"),
        ("event: died", "event: dead", "no column 'dead', which endpoints.os.codes asks for"),
        ("site: centre", "site: center", "asks for; did you mean 'centre'"),
        ("slide_id: slide}", "slide_id: slide, mpp: MPP}", "no column 'MPP'"),
    ],
)
def test_a_wrong_cell_is_named_with_column_and_row(write_cohort, old, new, message):
    with pytest.raises(CohortError) as caught:
        Cohort.read("hospital", write_cohort((old, new)))
    assert message in str(caught.value)
    assert not isinstance(caught.value, OutcomeError) or "endpoints" in message


def test_ids_stay_out_of_messages(write_cohort):
    with pytest.raises(CohortError) as caught:
        Cohort.read("hospital", write_cohort(("P4,55", "../P4,55")))
    assert "P4" not in str(caught.value)


def test_all_wrong_cells_are_reported_together(write_cohort):
    workspace = write_cohort(("P1,61", "P1,old"), ("200,0", "200,7"), ("50,0", "50,7"))
    with pytest.raises(CohortError, match="several problems") as caught:
        Cohort.read("hospital", workspace)
    text = str(caught.value)
    assert "'old' in row 2" in text
    assert "(2 cells): '7' in rows 3, 5" in text


def test_an_empty_cell_is_missing_only_where_that_is_declared(write_cohort):
    workspace = write_cohort(('missing: ["", "NA"]', "missing: [NA]"))
    with pytest.raises(CohortError, match=r"column 'age' .*'' in row 4"):
        Cohort.read("hospital", workspace)


def test_a_repeated_row_is_dropped_and_counted(write_cohort):
    again = ("P7,66,II,F,400,,\n", "P7,66,II,F,400,,\nP1,61,I,F,300,1,North\n")
    cohort = Cohort.read("hospital", write_cohort(again))
    assert len(cohort.patients) == 7
    assert cohort.attrition.excluded().iloc[0].tolist() == [
        "row 9", "rows", "one row a patient", "repeats an earlier row of its patient",
    ]  # fmt: skip


def test_rows_of_one_patient_that_disagree_are_an_error(write_cohort):
    again = ("P7,66,II,F,400,,\n", "P7,66,II,F,400,,\nP1,61,II,F,310,1,North\n")
    with pytest.raises(CohortError, match="rows 2, 9 differ in stage, days") as caught:
        Cohort.read("hospital", write_cohort(again))
    # Rows say enough; ids stay out of messages.
    assert "P1" not in str(caught.value)


def test_rows_may_differ_where_nothing_is_declared(write_cohort):
    clinical = "id,age,stage,sex,days,died,centre,note\nP1,61,I,F,9,1,N,x\nP1,61,I,F,9,1,N,y\n"
    cohort = Cohort.read("hospital", write_cohort(clinical=clinical, slides="case,slide\nP1,S1\n"))
    assert cohort.patients.index.tolist() == ["P1"]


def test_a_table_without_patients_is_an_error(write_cohort):
    with pytest.raises(CohortError, match="holds no patient"):
        Cohort.read("hospital", write_cohort(clinical="id,age,stage,sex,days,died,centre\n"))


def test_numeric_codes_compare_as_numbers(hospital):
    # P3 has "1.0" where the manifest says 1.
    table = hospital.outcome("os")
    assert dict(zip(table.patient_ids, table.outcome.event, strict=True))["P3"]
