"""Tables of measurements: read strictly, put in the order of the patients, every loss counted."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.files import digest_file

RNA = """\
case,TP53,VHL,MYC
P3,-1.5,0.25,3
P1,0,NA,1e-3
P9,1,1,1
P6,NA,,NA
"""
DECLARED = "measurements:\n  rna: {path: rna.csv, patient_id: case, unit: z-score%s}\nmissing:"


@pytest.fixture
def write_rna(write_cohort):
    """The hospital with a table ``rna``; ``more`` joins its declaration."""

    def write(data: str | bytes = RNA, *, name: str = "rna.csv", more: str = "") -> Cohort:
        workspace = write_cohort(("missing:", DECLARED.replace("rna.csv", name) % more))
        path = workspace.cohorts / "hospital" / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return Cohort.read("hospital", workspace)

    return write


def measure(cohort: Cohort):
    return cohort.measurements(["rna"])["rna"]


def test_every_patient_has_a_row_in_the_cohorts_order(write_rna):
    found = measure(write_rna())
    assert found.table.index.tolist() == [f"P{n}" for n in range(1, 8)]
    assert found.table.columns.tolist() == ["TP53", "VHL", "MYC"]
    assert found.table.dtypes.tolist() == [np.float64] * 3
    np.testing.assert_array_equal(found.table.loc["P1"], [0, np.nan, 0.001])
    np.testing.assert_array_equal(found.table.loc["P3"], [-1.5, 0.25, 3])
    # P6 has a row in which nothing stands: not measured, as those without a row.
    assert found.measured[found.measured].index.tolist() == ["P1", "P3"]
    assert found.unit == "z-score"


def test_rows_of_strangers_are_counted_and_named_by_their_number(write_rna):
    step = measure(write_rna()).attrition.steps[0]
    assert (step.unit, step.n_before, step.n_after) == ("rows", 4, 3)
    assert step.excluded == (("row 4", "its patient is not in the clinical table"),)


def test_the_order_of_rows_does_not_matter(write_rna):
    header, *rows = RNA.splitlines()
    turned = "\n".join([header, *rows[::-1]]) + "\n"
    pd.testing.assert_frame_equal(measure(write_rna(turned)).table, measure(write_rna()).table)


def parquet(frame: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("ending", ["csv.gz", "tsv", "tsv.gz", "parquet", "text.parquet"])
def test_kinds_of_files_hold_the_same(write_rna, ending):
    expected = measure(write_rna()).table
    text = RNA.replace(",", "\t") if "tsv" in ending else RNA
    data = gzip.compress(text.encode()) if ending.endswith("gz") else text.encode()
    if ending.endswith("parquet"):
        cells = pd.read_csv(pd.io.common.StringIO(RNA), dtype=str, keep_default_na=False)
        numbers = cells.set_index("case").apply(pd.to_numeric, errors="coerce").reset_index()
        data = parquet(cells if ending.startswith("text") else numbers)
    found = measure(write_rna(data, name=f"rna.{ending}"))
    pd.testing.assert_frame_equal(found.table, expected)


def test_whole_numbers_nulls_and_numeric_markers_of_parquet(write_rna):
    frame = pd.DataFrame({"case": ["P1", "P2"], "A": pd.array([1, None], "Int8"), "B": [-9, 2]})
    found = measure(write_rna(parquet(frame), name="rna.parquet", more=", missing: [-9]"))
    np.testing.assert_array_equal(found.table.loc[["P1", "P2"]], [[1, np.nan], [np.nan, 2]])


def test_columns_may_be_chosen_and_ordered(write_rna):
    found = measure(write_rna(more=", columns: [MYC, TP53]"))
    assert found.table.columns.tolist() == ["MYC", "TP53"]
    assert found.table.loc["P3"].tolist() == [3, -1.5]


def test_markers_are_compared_as_numbers(write_rna):
    found = measure(write_rna(RNA.replace("-1.5", "-9.0"), more=", missing: [-9]"))
    assert np.isnan(found.table.loc["P3", "TP53"])


@pytest.mark.parametrize("cell", ["high", "nan", "inf", "1e999", "1_000", " 7", "0,5", "NA "])
def test_a_cell_that_is_no_number_is_named_with_column_and_row(write_rna, cell):
    cohort = write_rna(RNA.replace("0.25", f'"{cell}"'))
    with pytest.raises(CohortError) as caught:
        measure(cohort)
    message = str(caught.value)
    assert "rna.csv: 1 cell is no number (measurements.rna)" in message
    assert f"column 'VHL', row 2: {cell!r}" in message
    assert "P3" not in message


def test_many_wrong_cells_are_counted_and_some_are_shown(write_rna):
    rows = "".join(f"P{n},x,y,z\n" for n in range(1, 8))
    with pytest.raises(CohortError, match=r"21 cells are no numbers.*row 2: 'z'; .* and 16 more"):
        measure(write_rna("case,TP53,VHL,MYC\n" + rows))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([True, False], "'true'"),
        ([1.0, np.inf], "row 2: 'inf'"),
        (["1", "x"], "row 2: 'x'"),
        ([[1], [2]], "column 'A' is of type list.*neither number nor text"),
    ],
)
def test_parquet_is_read_as_strictly(write_rna, values, message):
    frame = pd.DataFrame({"case": ["P1", "P2"], "A": values})
    with pytest.raises(CohortError, match=message):
        measure(write_rna(parquet(frame), name="rna.parquet"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (RNA + "P3,1,1,1\n", "1 patient has several rows: rows 2, 6. Keep one row"),
        (RNA.replace("VHL", "TP53"), "column 'TP53' more than once"),
        (RNA.replace("P", "Q"), "none of its 4 rows is of a patient.*Compare the ids in 'case'"),
        (RNA.replace("case", "Case"), "no column 'case', which measurements.rna.patient_id asks"),
        (RNA + "P4,1\n", "4 columns, but not row 6"),
        ("case\nP1\n", "no column beside 'case'"),
        ("case,A\n", "none of its 0 rows"),
        ("", "the file is empty"),
    ],
)
def test_what_is_no_table_of_one_row_a_patient_is_refused(write_rna, data, message):
    with pytest.raises(CohortError, match=message):
        measure(write_rna(data))


def test_a_chosen_column_that_is_not_there_is_named(write_rna):
    with pytest.raises(CohortError, match=r"'TP5', which measurements.rna.columns .*'TP53'"):
        measure(write_rna(more=", columns: [TP5]"))


def test_a_damaged_parquet_file_is_named(write_rna):
    with pytest.raises(CohortError, match=r"rna.parquet: cannot be read"):
        measure(write_rna("PAR1", name="rna.parquet"))


def test_a_table_is_read_only_when_it_is_asked_for(write_rna):
    cohort = write_rna()
    path = cohort.manifest_path.parent / "rna.csv"
    digest = digest_file(path)
    assert measure(cohort).digests == {"measurements.rna/rna.csv": digest}
    assert digest not in cohort.digests.values()
    path.unlink()
    cohort = Cohort.read(cohort.manifest_path)
    assert list(cohort.measured) == ["rna"]
    with pytest.raises(CohortError, match=r"rna\.csv: there is no such file"):
        measure(cohort)


def test_a_measurement_that_nobody_declares_names_its_neighbour(write_rna):
    with pytest.raises(CohortError, match="no measurement 'rma' is declared; did you mean 'rna'"):
        write_rna().measurements(["rma"])
    with pytest.raises(CohortError, match=r"no measurement 'images'.*did you mean 'image'"):
        write_rna().measurements(["images"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rna: {", "image: {", "'image' is taken by another input"),
        ("rna: {", "imputed_expression: {", "'imputed_expression' is taken"),
        ("rna: {", "clinical: {", "'clinical' is taken"),
        ("rna: {", "RNA: {", "line 15, measurements.RNA"),
        (", unit: z-score", "", "measurements.rna.unit: this key is missing"),
        ("unit: z-score", "unit: z-score, columns: [A, A]", "'A' is named more than once"),
        ("unit: z-score", "unit: z-score, columns: [case]", "'case' is the patient's id"),
        ("unit: z-score", "unit: z-score, columns: []", "measurements.rna.columns"),
    ],
)
def test_a_wrong_declaration_names_its_line(write_cohort, old, new, message):
    edit = ("missing:", (DECLARED % "").replace(old, new))
    with pytest.raises(CohortError, match=message):
        Cohort.read("hospital", write_cohort(edit))
