"""A finished study goes on wherever its workspace is taken."""

from __future__ import annotations

import shutil

from storm_clinic.files import Workspace
from storm_clinic.registry.moves import Registry
from storm_clinic.steps.external_validation import validate
from storm_clinic.steps.study_run import run_study


def test_a_workspace_that_was_taken_elsewhere_has_all_and_repeats_nothing(finished, tmp_path):
    first, result = finished
    moved = Workspace(tmp_path / "Elsewhere (2)")
    shutil.copytree(first.root, moved.root)
    naming = [
        path.name
        for path in moved.mlruns.rglob("*")
        if path.is_file() and str(first.root).encode() in path.read_bytes()
    ]
    assert naming == [], "so that nothing here can lead back to the first place"
    page = result.report_path.read_bytes()
    shutil.rmtree(moved.reports)
    again = run_study("pipelines/study.yaml", workspace=moved, lock_by="a.weber")
    assert again.model.reference == result.model.reference
    assert again.report_path.read_bytes() == page
    stored = validate("test-study", workspace=moved).cohorts[0]
    assert stored.evidence == result.validations[0].evidence
    assert stored.folder.is_relative_to(moved.mlruns)
    assert len(Registry(moved).trail.events()) == len(Registry(first).trail.events())
