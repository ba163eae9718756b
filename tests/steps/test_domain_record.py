"""Slides out of STORM's domain, from their files through training and validation to the page."""

from __future__ import annotations

import csv
import json

import pytest
from storm_hospital import write_hospital

from storm_clinic.files import Workspace
from storm_clinic.registry.identity import load_keys
from storm_clinic.reporting.page import render
from storm_clinic.steps.study_report import report
from storm_clinic.steps.study_run import run_study
from storm_clinic.validation.evidence import Evidence

STUDY = """\
format: 1
study: odd-slides
question: Do imputed genes tell risk in two simulated hospitals?
endpoint: {name: pfs, horizons_months: [6], tau_months: 18}
features: {encoder: toy, storm: simulated-storm}
development: [west]
validation: [east]
clinical: [age]
candidate: genes
models:
  - {name: clinical, head: cox, inputs: [clinical]}
  - {name: genes, head: pca-cox, inputs: [virtual_expression]}
  - {name: image, head: pca-cox, inputs: [image]}
evaluation: {folds: 2, repeats: 1, inner_folds: 2, group: patient, seed: 7, bootstraps: 200}
"""
WARNING = "64% of tiles look unlike the training sections"


def of_west(number: int):
    """Patients 3 (two slides) and 10 look unlike training; 0 has no slide and never counts."""
    return (
        (1.9, 0.64 if number == 3 else 0.3, WARNING) if number in (0, 3, 10) else (1.0, 0.04, None)
    )


def of_east(number: int):
    """A fifth of the slides are outside; of one nothing is known."""
    if number == 7:
        return None
    return (2.5, 0.8, WARNING) if number % 5 == 4 else (1.1, 0.05, None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        workspace = Workspace(tmp_path_factory.mktemp("odd"))
        write_hospital(workspace, "west", n_patients=40, seed=3, domain_of=of_west)
        write_hospital(workspace, "east", n_patients=40, seed=4, domain_of=of_east)
        workspace.pipelines.mkdir()
        (workspace.pipelines / "study.yaml").write_text(STUDY)
        return workspace, run_study("pipelines/study.yaml", workspace=workspace, lock_by="a.weber")


@pytest.fixture(scope="module")
def page(finished):
    workspace, result = finished
    return report(result.model, workspace=workspace)


def keys_of(workspace, *numbers, cohort):
    ids = [f"{cohort.upper()}-{number:03d}" for number in numbers]
    return set(load_keys(workspace).patient_keys(ids))


def test_slides_of_the_patients_used_are_counted_in_training_and_validation(finished):
    workspace, result = finished
    [west] = result.report.content.development.analyses.domain
    # Of 40 patients one has no slide, and two have no STORM file: 37, one of them with two slides.
    assert (west.cohort, west.n_patients, west.n_slides, west.n_unknown) == ("west", 37, 38, 0)
    assert (west.checkpoint, west.checkpoint_digest) == ("simulated-storm", "c" * 64)
    assert (west.n_outside, west.n_patients_outside) == (3, 2)
    assert {item.patient_key for item in west.outside} == keys_of(workspace, 3, 10, cohort="west")
    two_slides = next(item for item in west.outside if item.n_slides == 2)
    assert (two_slides.n_outside, two_slides.share_outside, two_slides.distance) == (2, 0.64, 1.9)
    [east] = result.validations[0].evidence.analyses.domain
    assert (east.cohort, east.n_slides, east.n_unknown) == ("east", 38, 1)
    assert {item.patient_key for item in east.outside} == keys_of(
        workspace, *range(4, 40, 5), cohort="east"
    )


def test_evidence_on_disk_says_it_and_older_evidence_is_read_with_its_digest(finished, tmp_path):
    _, result = finished
    path = tmp_path / "evidence.json"
    evidence = result.validations[0].evidence
    evidence.write(path)
    document = json.loads(path.read_text())
    [said] = document["analyses"]["domain"]
    assert (said["n_outside"], len(said["outside"])) == (8, 8)
    assert Evidence.read(path) == evidence
    del document["analyses"]["domain"]
    older = Evidence.from_json(document)
    assert older.analyses.domain == ()
    assert older.to_json() == document  # so that what was sealed before keeps its digest


def test_whoever_promotes_is_warned_where_many_slides_are_outside(finished):
    _, result = finished
    checks = {
        item.kind: next(check for check in item.checks if check.code == "SC128")
        for item in (result.report.content.development, result.validations[0].evidence)
    }
    assert checks["external"].status == "warn"
    assert "8 of 37 slides of east (8 patients) look unlike" in checks["external"].reason
    assert checks["cross-validation"].status == "pass"  # 3 of 38 are fewer than a tenth


def test_the_page_says_how_many_of_which_checkpoint_and_what_that_means(page):
    html = render(page.content)
    section = html.split('id="storm-domain"')[1].split("</section>")[0]
    text = " ".join(section.split())
    trained = "what the STORM checkpoint simulated-storm was trained on"
    assert (
        f"Of 38 slides of 37 patients of west, 3 (8%) of 2 patients look unlike {trained}." in text
    )
    assert (
        f"Of 37 slides of 37 patients of east, 8 (22%) of 8 patients look unlike {trained}." in text
    )
    assert "was not shown to hold" in text
    assert "Of 1 further slide it is not known: the checkpoint does not say" in text


def test_patients_are_listed_by_key_and_never_by_id(finished, page):
    workspace, _ = finished
    tables = {name: text for name, text in page.tables().items() if "domain" in name}
    rows = [row for text in tables.values() for row in csv.DictReader(text.splitlines())]
    listed = {row["patient_key"] for row in rows if row["patient_key"]}
    east = keys_of(workspace, *range(4, 40, 5), cohort="east")
    assert listed == keys_of(workspace, 3, 10, cohort="west") | east
    for key in listed:
        assert key[:12] in render(page.content)
    assert "EAST-0" not in render(page.content) + "".join(tables.values())
    assert "WEST-0" not in render(page.content) + "".join(tables.values())
