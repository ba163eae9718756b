"""The Slurm template deals every slide to exactly one job of the array."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from storm_clinic.features.shard import Shard

TEMPLATE = Path(__file__).parents[2] / "pipelines" / "extract_array.sbatch"


@pytest.fixture
def job(tmp_path):
    """Run the template as Slurm would; what it starts prints its arguments."""
    program = tmp_path / "storm-clinic"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$OMP_NUM_THREADS" "$@"\n')
    program.chmod(0o755)

    def run(part, *, least=1, most=3, count=3, **variables):
        slurm = {"TASK_ID": part, "TASK_MIN": least, "TASK_MAX": most, "TASK_COUNT": count}
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_CPUS_PER_TASK": "4",
            **{f"SLURM_ARRAY_{name}": str(value) for name, value in slurm.items()},
            **variables,
        }
        command = ["bash", TEMPLATE, "my slides/", "--cohort", "a"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_jobs_of_an_array_are_parts_that_cover_all_slides(job):
    lines = [job(part).stdout.splitlines() for part in (1, 2, 3)]
    assert {tuple(line[:-1]) for line in lines} == {
        ("4", "extract", "my slides/", "--cohort", "a", "--shard")
    }
    shards = [Shard.parse(line[-1]) for line in lines]
    for number in range(50):
        assert sum(shard.takes(f"slide-{number}") for shard in shards) == 1


def test_an_array_with_a_gap_is_refused_unless_the_number_of_parts_is_said(job):
    for gap in ({"least": 2, "count": 2}, {"count": 2}):
        refused = job(3, **gap)
        assert refused.returncode == 2
        assert "STORM_CLINIC_PARTS" in refused.stderr
        assert not refused.stdout
    said = job(3, least=2, count=2, STORM_CLINIC_PARTS="8")
    assert said.stdout.splitlines()[-1] == "3/8"
