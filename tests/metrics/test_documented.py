"""docs/statistics.md is the one table of what the metrics are called; the code must agree."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from storm_clinic.validation.measures import claimable

_METRICS = Path(__file__).resolve().parents[2] / "storm_clinic" / "metrics"
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


def named_functions() -> list[str]:
    """``module.function`` in the tables of what lies beyond the headline numbers."""
    text = _PAGE.split("## Beyond the headline numbers")[1].split("\n## ")[0]
    cells = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ")]
    return [name for cell in cells for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", cell)]


@pytest.mark.parametrize("name", named_functions())
def test_every_function_behind_an_analysis_exists_and_is_documented(name):
    module, function = name.split(".")
    room = "metrics" if (_METRICS / f"{module}.py").exists() else "inference"
    found = getattr(importlib.import_module(f"storm_clinic.{room}.{module}"), function)
    assert found.__doc__
    assert len(named_functions()) > 30
