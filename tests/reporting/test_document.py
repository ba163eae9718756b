"""docs/reports.md is true: its example runs, and its table of checks is the code's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storm_clinic.validation import checks

TEXT = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")


def test_the_example_runs_on_a_csv_from_another_program(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    keys = [f"p{i}" for i in range(80)]
    lp = rng.normal(size=80)
    months = rng.exponential(30 / np.exp(lp))
    parts = []
    for model, risk in (("theirs", lp), ("clinical", lp + rng.normal(size=80))):
        p = {f"risk_at_{h}m": 1 - np.exp(-h / 30 * np.exp(risk)) for h in (12, 36)}
        parts.append(
            pd.DataFrame({"cohort": "b", "patient_key": keys, "model": model, "risk": risk, **p})
        )
    pd.concat(parts).to_csv(tmp_path / "predictions.csv", index=False)
    monkeypatch.chdir(tmp_path)
    example = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[-1]
    exec(  # the document's own words are what is tested
        compile(example, "docs/reports.md", "exec"),
        {"keys": keys, "months": np.minimum(months, 60), "event": months < 60},
    )
    page = (tmp_path / "theirs.html").read_text(encoding="utf-8")
    assert "In 80 patients of b" in page
    assert (tmp_path / "theirs_tables" / "all-estimates.csv").exists()


@pytest.mark.parametrize("text", [TEXT, checks.__doc__ or ""], ids=["document", "docstring"])
def test_every_check_is_in_the_table_and_no_other(text):
    given = checks.CheckInput("external", (), (), "candidate", None)
    codes = [check.code for check in checks.run_checks(given)]
    assert re.findall(r"^\| (SC\d{3}) \|", text, re.MULTILINE) == codes
