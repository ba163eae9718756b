"""The cohorts of the regressions, and the values that R gave for them (tests/golden/README.md)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SCRIPT = Path(__file__).resolve().parents[1] / "golden" / "inference_cases.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("golden_inference_cases", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_MODULE = _load()
_VALUES = {name: value for name, value in _MODULE.GOLDEN.items() if name != "versions"}


class Golden:
    """One case with R's values; ``golden.r("cox", "plain", "coef")`` is one of them."""

    def __init__(self, name: str, case: Any) -> None:
        self.name, self.case = name, case

    def r(self, *keys: str) -> np.ndarray:
        value = _VALUES[self.name]
        for key in keys:
            value = value[key]
        return np.atleast_1d(np.array(value, dtype=np.float64))


@pytest.fixture(scope="session")
def regression_cases() -> dict[str, Golden]:
    return {n: Golden(n, case) for n, case in _MODULE.load_cases(_VALUES).items()}


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "regression(*keys): run on each cohort for which R gave this value"
    )


def pytest_generate_tests(metafunc):
    if "regression" in metafunc.fixturenames:
        keys = metafunc.definition.get_closest_marker("regression").args
        names = [name for name in sorted(_VALUES) if _has(_VALUES[name], keys)]
        metafunc.parametrize("regression", names, indirect=True)


def _has(value: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if key not in value:
            return False
        value = value[key]
    return True


@pytest.fixture
def regression(request, regression_cases):
    return regression_cases[request.param]


@pytest.fixture
def lung(regression_cases):
    return regression_cases["lung"]
