"""What the first covariate adds to the rest equals nested models in R, with each kind of model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.inference.added_value import added_value
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.fine_gray import fit_fine_gray
from storm_clinic.inference.fitted import Fitted
from storm_clinic.inference.logistic import fit_logistic

_R = json.loads((Path(__file__).resolve().parents[1] / "golden" / "added_value.json").read_text())
EVERY = [(name, kind) for name, values in _R.items() for kind in values]


def fitted(case, kind: str, design: np.ndarray, names: Sequence[str]) -> Fitted:
    if kind == "cox":
        return fit_cox(design, case.outcome, names=names)
    if kind == "logistic":
        return fit_logistic(design, case.outcome.event, names=names)
    return fit_fine_gray(design, case.competing, names=names)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_added_value_and_ratio_per_sd_equal_r(regression_cases, name, kind):
    case, r = regression_cases[name].case, _R[name][kind]
    design = case.design.copy()
    design[:, 0] = (design[:, 0] - design[:, 0].mean()) / design[:, 0].std(ddof=1)
    larger = fitted(case, kind, design, case.names)
    found = added_value(larger, fitted(case, kind, design[:, 1:], case.names[1:]))
    assert found.test.statistic == pytest.approx(r["chisq"], rel=1e-6, abs=1e-8)
    b, _, lower, upper, _ = larger.interval(0)
    assert np.exp([b, lower, upper]) == pytest.approx(r["ratio"], rel=1e-6)
    if kind == "fine_gray":
        assert found.method == "robust Wald"
    else:
        assert found.test.p == pytest.approx(r["p"], rel=1e-5)
        assert found.adequacy == pytest.approx(r["adequacy"], abs=1e-7)
