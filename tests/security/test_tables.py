"""Edited tables give what stands in them, or an error of ours; packed ones fill no memory."""

from __future__ import annotations

import csv
import gzip
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nasty_text import scalars

from storm_clinic.cohort import text_table
from storm_clinic.cohort.text_table import read_text_table
from storm_clinic.errors import CohortError, PredictionsError
from storm_clinic.features.run_record import write_failures
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.files import csv_text
from storm_clinic.predictions import Predictions

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HEADER = "cohort,patient_key,model,repeat,fold,risk,risk_at_12m"
ROWS = ["a,p1,m,0,0,0.5,0.1", "a,p2,m,0,1,-1e3,0.25", "b,p1,k,0,0,0.5,0.75"]
CELLS = [
    '"',
    'a"b',
    "1,5",
    "NA",
    "inf",
    "1e-400",
    "TRUE",
    "0x1F",
    "1_0",
    " 1",
    "\u06f1",
    "\r",
    "\0",
]


@st.composite
def edited_rows(draw):
    """The table with up to three cells, rows or separators replaced, doubled or lost."""
    rows = [line.split(",") for line in (HEADER, *ROWS)]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(rows) - 1))
        place = draw(st.integers(0, max(0, len(rows[at]) - 1)))
        how = draw(st.sampled_from(["cell", "extra", "lose", "double", "drop"]))
        cell = draw(scalars | st.sampled_from(CELLS))
        if how == "cell" and rows[at]:
            rows[at][place] = cell
        elif how == "extra":
            rows[at].insert(place, cell)
        elif how == "lose" and rows[at]:
            del rows[at][place]
        elif how == "double":
            rows.insert(at, list(rows[at]))
        elif how == "drop" and len(rows) > 1:
            del rows[at]
    return "\n".join(map(",".join, rows)) + "\n"


@FUZZ
@given(text=edited_rows())
def test_edited_predictions_are_read_as_they_stand_or_refused(tmp_path, text):
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = Predictions.read(path)
    except PredictionsError:
        return
    # Python's own reader is the witness: every number stands under its own heading.
    rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline="")))
    assert [float(row["risk"]) for row in rows] == found.table["risk"].tolist()
    assert [row["patient_key"] for row in rows] == found.table["patient_key"].tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["x,a,p1,m,0,0,0.5,0.1", "x,a,p2,m,0,0,0.5,0.1"], "the header has 7 columns, but not row"),
        (["a,p1,m,0,0,0.5"], "the header has 7 columns, but not row 2"),
        (["a,p1,m,0,0,True,0.1"], "1 values of risk are no numbers, the first in row 2: 'True'"),
        (["a,p1,m,0.5,0,1,0.1"], "1 values of repeat are no integers, the first in row 2: '0.5'"),
    ],
)
def test_a_row_that_pandas_would_shift_or_guess_is_refused(tmp_path, rows, message):
    path = tmp_path / "p.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.raises(PredictionsError, match=message):
        Predictions.read(path)


@pytest.mark.parametrize(
    "columns",
    [
        {"patient_key": [["p1"], ["p2"]]},
        {"repeat": [0.5, 1.0]},
        {"risk": [True, False]},
        {"cohort": ["a", None]},
        {"model": [1, 2]},
    ],
)
def test_parquet_with_other_types_is_refused_by_its_column(tmp_path, columns):
    base = {"cohort": "a", "patient_key": ["p1", "p2"], "model": "m", "repeat": 0, "fold": 0}
    table = pd.DataFrame({**base, "risk": [0.1, 0.2], **columns}, index=[0, 1])
    table.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(PredictionsError, match=f"column {next(iter(columns))} is of type"):
        Predictions.read(tmp_path / "p.parquet")


def test_a_packed_table_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_table, "_FREE_BYTES", 1 << 16)
    path = tmp_path / "rna.csv.gz"
    path.write_bytes(gzip.compress(b"id,gene\n" + b"0" * (1 << 24)))
    with pytest.raises(CohortError, match=r"unpack to more than \d+, which no table does"):
        read_text_table(path)


ATTACKS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "  @x", "\r\n-1"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_of_a_table_for_people_can_run_as_a_formula(attack):
    table = pd.DataFrame(
        {
            "text": [attack, "harmless"],
            attack: pd.Categorical([attack, "b"]),
            "number": [-1.5, np.nan],
            "mixed": [attack, -2],
        }
    )
    rows = list(csv.reader(io.StringIO(csv_text(table), newline="")))
    for cell in (rows[0][1], rows[1][0], rows[1][1], rows[1][3]):
        assert cell.startswith("'")
    assert (rows[1][2], rows[2][3]) == ("-1.5", "-2")
    assert len(rows) == 3  # a bare carriage return starts no row of its own


def test_the_reason_of_a_failed_slide_cannot_run_as_a_formula(tmp_path):
    result = SlideResult("S1", tmp_path, "failed", error="UnreadableSlide", reason="=HYPERLINK(1)")
    path = write_failures(tmp_path, [result], None)
    assert path is not None
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert rows[0]["reason"] == "'=HYPERLINK(1)"
