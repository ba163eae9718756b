"""docs/reports.md is true: its example runs, and its table of checks is the code's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storm_clinic.validation import checks

TEXT = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")


MANIFEST = """\
format: 1
cohort: tcga_kirp
tables:
  clinical: {path: clinical.csv, patient_id: patient}
columns:
  age: {from: age, kind: continuous, unit: years}
endpoints:
  pfi: {kind: survival, time: time, unit: months, event: event, codes: {0: censored, 1: event}}
missing: [""]
origin: {source: made up for a test, licence: none}
"""


def test_the_example_runs_on_a_csv_from_another_program(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    n = 90
    lp = rng.normal(size=n)
    months = np.ceil(rng.exponential(30 / np.exp(lp)))
    ids = [f"p{i}" for i in range(n)]
    parts = []
    for model, risk in (("theirs", lp), ("clinical", lp + rng.normal(size=n))):
        p = {f"risk_at_{h}m": 1 - np.exp(-h / 30 * np.exp(risk)) for h in (12, 36)}
        parts.append(pd.DataFrame({"patient_id": ids, "model": model, "risk": risk, **p}))
    pd.concat(parts).to_csv(tmp_path / "predictions.csv", index=False)
    folder = tmp_path / "cohorts" / "tcga_kirp"
    folder.mkdir(parents=True)
    (folder / "cohort.yaml").write_text(MANIFEST, encoding="utf-8")
    outcome = {"time": np.minimum(months, 60), "event": (months < 60).astype(int)}
    age = rng.normal(60, 10, n).round()
    pd.DataFrame({"patient": ids, "age": age, **outcome}).to_csv(
        folder / "clinical.csv", index=False
    )
    monkeypatch.chdir(tmp_path)
    example = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[-1]
    # The document's own words are what is tested.
    exec(compile(example, "docs/reports.md", "exec"), {})
    page = (tmp_path / "theirs.html").read_text(encoding="utf-8")
    assert "In 90 patients of tcga_kirp" in page
    assert "how the model was trained is not known to this report" in page
    assert '<section id="adequacy"' in page
    assert (tmp_path / "theirs_tables" / "all-estimates.csv").exists()


@pytest.mark.parametrize("text", [TEXT, checks.__doc__ or ""], ids=["document", "docstring"])
def test_every_check_is_in_the_table_and_no_other(text):
    given = checks.CheckInput("external", (), (), "candidate", None)
    codes = [check.code for check in checks.run_checks(given)]
    assert re.findall(r"^\| (SC\d{3}) \|", text, re.MULTILINE) == codes
