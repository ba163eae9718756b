"""From a locked model to a decision: seals before outcomes, re-runs, cohorts that come later."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from storm_clinic.errors import RegistryError
from storm_clinic.files import Workspace, digest_file
from storm_clinic.registry.moves import Registry
from storm_clinic.steps.external_validation import validate
from storm_clinic.steps.promotion import add_cohort, promote, retire
from storm_clinic.steps.study_report import report
from storm_clinic.steps.training_files import ATTRITION, PREDICTIONS
from storm_clinic.tracking import Tracker


@pytest.fixture
def locked(once_locked, tmp_path) -> Workspace:
    return Workspace(shutil.copytree(once_locked.root, tmp_path / "workspace"))


@pytest.fixture
def validated(once_validated, tmp_path) -> Workspace:
    return Workspace(shutil.copytree(once_validated.root, tmp_path / "workspace"))


def _events(workspace: Workspace) -> list[str]:
    return [event.kind for event in Registry(workspace).trail.events()]


def test_a_dry_run_says_the_verdict_and_leaves_nothing(validated):
    before = _events(validated)
    tried = promote("test-study", by="d.chen", dry_run=True, workspace=validated)
    assert not tried.recorded
    assert tried.model.state == "locked"
    assert _events(validated) == before


def test_a_promotion_asked_for_by_the_trainer_is_refused_kept_and_shown(validated):
    asked = promote("test-study", by="c.trainer", workspace=validated)
    assert asked.decision.verdict == "refused"
    assert _events(validated)[-1] == "promotion_refused"
    page = report("test-study", workspace=validated)
    assert page.content.decision == asked.decision
    assert page.content.moves[-1].kind == "promotion_refused"


def test_what_is_approved_can_be_retired_with_a_reason(validated):
    tried = promote("test-study", by="d.chen", dry_run=True, workspace=validated)
    failing = [r.text for r in tried.decision.reasons if r.standing != "for"]
    made = promote("test-study", by="d.chen", workspace=validated)
    assert made.model.state == "approved", failing
    retired = retire("test-study", by="d.chen", reason="Superseded", workspace=validated)
    assert retired.state == "retired"
    with pytest.raises(RegistryError, match="no such version is locked"):
        promote("test-study", by="d.chen", workspace=validated)


def test_a_rerun_needs_a_reason_keeps_both_and_must_be_accepted(validated):
    with pytest.raises(RegistryError, match="a re-run is of one cohort"):
        validate("test-study", rerun="Wrong table", workspace=validated)
    first = Registry(validated).find("test-study").find_event("validated")
    validate("test-study", cohort="south", rerun="Wrong table", workspace=validated, by="a.weber")
    assert _events(validated)[2:] == ["predictions_sealed", "validated"] * 2
    kept = Tracker(validated).read_run(first.body["run_id"]).artifacts / PREDICTIONS
    assert kept.exists()
    asked = promote("test-study", by="d.chen", dry_run=True, workspace=validated)
    (told,) = [r for r in asked.decision.reasons if r.about == "rerun"]
    assert "Wrong table; the same inputs" in told.text
    assert told.standing == "open"
    accepted = promote(
        "test-study", by="d.chen", accept_reruns=True, dry_run=True, workspace=validated
    )
    assert accepted.decision.verdict == "approved"


def _without_outcomes(workspace: Workspace, name: str) -> list[dict[str, str]]:
    """Blank what became of a cohort's patients; returns the table as it was."""
    path = workspace.cohorts / name / "clinical.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    _write(path, [{**row, "months": "", "progressed": ""} for row in rows])
    return rows


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_predictions_of_a_prospective_cohort_are_sealed_now_and_judged_later(
    validated, add_hospital
):
    add_hospital(validated, "west", n_patients=50, seed=5)
    rows = _without_outcomes(validated, "west")
    with pytest.raises(RegistryError, match=r"no validation cohort of this model.*add-cohort"):
        validate("test-study", cohort="west", workspace=validated)
    add_cohort("test-study", "west", plan="Protocol 2", by="a.weber", workspace=validated)
    sealed = validate("test-study", workspace=validated, by="a.weber")
    assert sealed.waiting == ("west",)
    assert _events(validated)[-2:] == ["cohort_added", "predictions_sealed"]
    asked = promote("test-study", by="d.chen", dry_run=True, workspace=validated)
    assert "west was not validated on yet" in asked.decision.sentence
    assert validate("test-study", workspace=validated).waiting == ("west",)
    assert _events(validated)[-1] == "predictions_sealed", "sealed once, however often one asks"

    seal = Registry(validated).find("test-study").find_event("predictions_sealed", cohort="west")
    sealed_file = Tracker(validated).read_run(seal.body["run_id"]).artifacts / PREDICTIONS
    sealed_file.rename(sealed_file.with_suffix(".away"))
    with pytest.raises(RegistryError, match="not any more, the file of predictions that was"):
        validate("test-study", cohort="west", workspace=validated)
    sealed_file.with_suffix(".away").rename(sealed_file)

    path = validated.cohorts / "west" / "clinical.csv"
    _write(path, [*rows[:-1], {**rows[-1], "months": "", "progressed": ""}])
    judged = validate("test-study", cohort="west", workspace=validated, by="a.weber").cohorts[0]
    assert digest_file(judged.folder / PREDICTIONS) == seal.body["predictions_digest"]
    assert any("outcomes were joined later" in note for note in judged.evidence.notes)
    assert any("west/clinical" in note for note in judged.evidence.notes)
    assert "with outcome pfs" in (judged.folder / ATTRITION).read_text()


def test_under_another_secret_overlap_is_recorded_as_not_checked(locked, tmp_path, monkeypatch):
    monkeypatch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path / "another"))
    evidence = validate("test-study", workspace=locked, by="a.weber").cohorts[0].evidence
    (overlap,) = [check for check in evidence.checks if check.code == "SC106"]
    assert (overlap.status, overlap.reason[:11]) == ("fail", "not checked")
    asked = promote("test-study", by="d.chen", workspace=locked)
    assert asked.decision.verdict == "refused"
    assert asked.model.state == "locked"


def test_a_claim_that_is_not_met_rejects_for_good(tmp_path, lock_quickly):
    workspace = lock_quickly(tmp_path / "unmet", claim=0.6)
    validate("test-study", workspace=workspace, by="a.weber")
    assert promote("test-study", by="d.chen", workspace=workspace).model.state == "rejected"
    with pytest.raises(RegistryError, match="no such version is locked"):
        promote("test-study", by="d.chen", workspace=workspace)
