"""docs/statistics.md is the one table of what the metrics are called; the code must agree."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from storm_clinic.validation.measures import claimable

_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "statistics.md").read_text("utf-8")


def rows() -> list[list[str]]:
    table = _PAGE.split("## Metrics")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip(" `") for cell in line.strip("| ").split(" | ")] for line in lines]


def test_claims_may_use_exactly_the_documented_names():
    documented = [row[0] for row in rows() if row[4] == "yes"]
    gains = [f"{row[0]}_gain" for row in rows() if row[5] == "yes"]
    assert sorted(documented + gains) == sorted(claimable())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_documented_function_exists_and_says_what_it_takes(row):
    module, name = row[2].split(".")
    function = getattr(importlib.import_module(f"storm_clinic.metrics.{module}"), name)
    assert inspect.signature(function).return_annotation == "Statistic"
    assert "Parameters" in function.__doc__
