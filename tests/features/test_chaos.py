"""A few seconds of benchmarks/chaos.py: what is killed is taken up again, and nothing is lost."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def chaos():
    sys.path.insert(0, str(BENCHMARKS))  # for its helper
    specification = importlib.util.spec_from_file_location("chaos", BENCHMARKS / "chaos.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["chaos"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["chaos"]
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def bench(chaos, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield chaos.Bench(tmp_path_factory.mktemp("chaos"), chaos.Report(), n_slides=3)
    torch.set_num_threads(before)


def test_a_worker_killed_beside_another_in_one_store_costs_a_rerun_and_nothing_else(chaos, bench):
    before = chaos.open_files()
    chaos.kill_at_random(bench, 0, "worker", random.Random(3))
    assert bench.report.violations == []
    assert chaos.open_files() == before


def test_a_store_that_differs_is_a_violation(chaos, bench):
    """What looks on must be able to see."""
    report, bench.report = bench.report, chaos.Report()
    store = bench.store("undisturbed")
    name = next(path.name for path in store.glob("*.h5"))
    (store / name).write_bytes(b"torn")
    (store / f"{name}.somebody-1.part").touch()
    bench.require_equal("undisturbed", "here")
    assert bench.report.violations == [
        f"here: differs: ['{name}']",
        f"here: left half written: ['{name}.somebody-1.part']",
    ]
    bench.report = report
