"""One table of measures: code and docs/statistics.md say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from storm_clinic.errors import StudyError
from storm_clinic.study import Claim
from storm_clinic.validation.measures import (
    MEASURES,
    base_of,
    check_claims,
    claimable,
    gain_of,
    label_of,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "statistics.md"


def documented() -> dict[str, tuple[bool, bool]]:
    """Name to (claim, gain), from the first table."""
    rows = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 6:
            rows[cells[0].strip("`")] = (cells[4] == "yes", cells[5] == "yes")
    return rows


def test_every_claimable_measure_is_documented_as_such_and_no_other():
    table = documented()
    assert {name for name, (claim, _) in table.items() if claim} == {
        name for name, measure in MEASURES.items() if measure.claimable
    }


def test_every_measure_is_documented_and_gains_agree():
    table = documented()
    for name, measure in MEASURES.items():
        assert table[name][1] == measure.has_gain, name


def test_names_of_gains_come_and_go():
    assert gain_of("auc") == "auc_gain"
    assert base_of("auc_gain") == base_of("auc") == "auc"
    assert label_of("auc_gain") == "Gain in AUC"
    assert label_of("somebody_elses") == "somebody_elses"


@pytest.mark.parametrize("metric", ["ici", "o_e_gain", "accuracy"])
def test_what_cannot_be_claimed_is_refused(metric):
    assert metric not in claimable()
    over = "clinical" if metric.endswith("_gain") else None
    with pytest.raises(StudyError, match="no such measure"):
        check_claims([Claim(metric=metric, lower_bound_at_least=0.5, over=over)])
