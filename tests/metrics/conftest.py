"""The golden cases, and the values that R gave for them (tests/golden/README.md)."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival

_GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _load_cases(file: str = "cases") -> Any:
    spec = importlib.util.spec_from_file_location(f"golden_{file}", _GOLDEN / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_CASES = _load_cases().CASES
_VALUES = json.loads((_GOLDEN / "metrics.json").read_text())


@pytest.fixture(scope="session")
def cases() -> dict[str, Any]:
    return {name: build() for name, build in _CASES.items()}


@pytest.fixture(scope="session")
def competing_cases() -> dict[str, Any]:
    return {name: build() for name, build in _load_cases("competing_cases").CASES.items()}


@pytest.fixture(scope="session")
def accuracy_cases() -> dict[str, Any]:
    """The tables behind `accuracy.json`, each with a second prediction."""
    return _load_cases("accuracy_cases").tables()


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "golden(*keys): run on each case for which R gave this value"
    )


def pytest_generate_tests(metafunc):
    if "golden" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("golden")
        names = [name for name in sorted(_CASES) if _has_value(name, marker.args)]
        metafunc.parametrize("golden", names, indirect=True)


def _has_value(name: str, keys: tuple[str, ...]) -> bool:
    value = _VALUES[name]
    for key in keys:
        if key not in value:
            return False
        value = value[key]
    return not isinstance(value, dict) or value.get("value", 0) is not None


@pytest.fixture
def golden(request, cases):
    """One case and R's values for it; ``golden.r("concordance", "harrell")`` is one of them."""
    return _Golden(request.param, cases[request.param])


@pytest.fixture
def lung(cases):
    return _Golden("lung", cases["lung"])


class _Golden:
    def __init__(self, name: str, case: Any) -> None:
        self.name, self.case, self.outcome = name, case, case.outcome
        self.risk, self.probability = case.column("risk"), case.column("probability")

    def r(self, *keys: str) -> Any:
        value = _VALUES[self.name]
        for key in keys:
            value = value[key]
        return value

    def months(self, times: list[float | None]) -> list[float | None]:
        return [None if t is None else float(self.case.months(t)) for t in times]


def _random_cohort(seed: int, n_patients: int, *, entry: bool = False, months: bool = True):
    """Simulated: exponential times that depend on the risk, about 40% censored; ties if rounded."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=n_patients), 1)
    time = rng.exponential(24 * np.exp(-0.8 * risk)) + 0.5
    censored = rng.uniform(3, 90, n_patients)
    event = time <= censored
    time = np.minimum(time, censored)
    if months:
        time = np.ceil(time)
    start = None
    if entry:
        start = np.where(rng.random(n_patients) < 0.5, 0.0, np.floor(time * rng.random(n_patients)))
        start = np.minimum(start, time - 0.5)
    return Survival.from_arrays(time, event, start), risk


@pytest.fixture(scope="session")
def random_cohort():
    return _random_cohort
