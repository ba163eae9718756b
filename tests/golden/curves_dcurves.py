"""Net benefit from the Python package dcurves 1.1.7, which the tests do not need.

``python tests/golden/curves_dcurves.py``, with dcurves on the path, writes curves_dcurves.json.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from dcurves import dca

_HERE = Path(__file__).parent
_SPEC = importlib.util.spec_from_file_location("curves_cases", _HERE / "curves_cases.py")
_CASES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _CASES
_SPEC.loader.exec_module(_CASES)

THRESHOLDS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def _benefit(table: pd.DataFrame, model: str) -> list[float | None]:
    rows = table[table["model"] == model].sort_values("threshold")
    return [None if pd.isna(value) else float(value) for value in rows["net_benefit"]]


def survival(name: str) -> dict[str, object]:
    data = _CASES.table(name)
    # dcurves takes its own minimum and maximum for treating all and none.
    found = dca(
        data=data[["time", "cause", "probability"]],
        outcome="cause",
        modelnames=["probability"],
        thresholds=np.array(THRESHOLDS),
        time=float(data["horizon"].iloc[0]),
        time_to_outcome_col="time",
    )
    return {"model": _benefit(found, "probability"), "all": _benefit(found, "all")}


def classes(name: str) -> dict[str, object]:
    data = _CASES.table(name)[["cause", "probability"]]
    found = dca(
        data=data, outcome="cause", modelnames=["probability"], thresholds=np.array(THRESHOLDS)
    )
    return {"model": _benefit(found, "probability"), "all": _benefit(found, "all")}


if __name__ == "__main__":
    names = [name for name in _CASES.CASES if name.startswith("survival_")]
    whole = [name for name in names if "entry" not in _CASES.table(name)]
    out = {
        "thresholds": THRESHOLDS,
        "dcurves": importlib.metadata.version("dcurves"),
        "survival": {name: survival(name) for name in whole},
        "classes": {name: classes(name) for name in whole if name != "survival_all_events"},
    }
    (_HERE / "curves_dcurves.json").write_text(json.dumps(out, indent=1) + "\n")
