"""Predictions travel between programs unchanged, and a bad table is refused at the door."""

from __future__ import annotations

import pandas as pd
import pytest

from storm_clinic.errors import PredictionsError
from storm_clinic.predictions import Predictions, horizon_column


def table(**columns) -> pd.DataFrame:
    base = {
        "cohort": ["a", "a"],
        "patient_key": ["p1", "p2"],
        "model": ["m", "m"],
        "repeat": [0, 0],
        "fold": [0, 1],
        "risk": [0.25, -1.5],
        "risk_at_12m": [0.1, 0.2],
    }
    return pd.DataFrame(base | columns)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_reads_back_bit_for_bit(tmp_path, ending):
    predictions = Predictions(table(risk=[0.1 + 0.2, 1e-17]))
    path = tmp_path / f"p.{ending}"
    digest = predictions.write(path)
    again = Predictions.read(path)
    pd.testing.assert_frame_equal(again.table, predictions.table)
    assert again.write(path) == digest


def test_a_table_from_another_program_needs_no_folds_and_keeps_numeric_looking_keys(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "cohort,patient_key,model,risk,risk_at_60m\nx,007,cox,1.5,0.3\nx,008,cox,2,0.4\n"
    )
    predictions = Predictions.read(path)
    assert predictions.table["patient_key"].tolist() == ["007", "008"]
    assert set(predictions.table["fold"]) == {-1}
    assert predictions.horizons_months == (60.0,)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"risk": [0.1, float("nan")]}, "1 values of risk.*row 3"),
        ({"risk_at_12m": [0.1, 1.2]}, "risk_at_12m.*row 3: 1.2"),
        ({"patient_key": ["p1", "p1"]}, "predicted twice.*row 3"),
        ({"event": [0, 1]}, "unknown column event"),
        ({"risk": ["low", "high"]}, "2 values of risk"),
    ],
)
def test_a_bad_table_is_refused_by_column_and_row(columns, message):
    with pytest.raises(PredictionsError, match=message):
        Predictions(table(**columns))


def test_a_missing_column_is_named():
    with pytest.raises(PredictionsError, match="no column patient_key"):
        Predictions(table().drop(columns="patient_key"))


def test_a_file_that_is_no_table_is_named(tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(PredictionsError, match=r"p\.parquet: cannot be read"):
        Predictions.read(path)


def test_a_horizon_is_named_without_trailing_zeros():
    assert horizon_column(12.0) == "risk_at_12m"
    assert horizon_column(7.5) == "risk_at_7.5m"
