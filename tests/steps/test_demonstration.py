"""The demo's own parts: what it ships, and that it overwrites nobody's folder."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import InputError
from storm_clinic.files import Workspace
from storm_clinic.simulate.workspace import declare_cohorts
from storm_clinic.steps.demonstration import PLANTED, SEED, demo, truth_of, write_studies
from storm_clinic.study import Study

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STUDIES = sorted((REPOSITORY / "storm_clinic" / "simulate" / "studies").glob("*.yaml"))


def test_a_folder_that_no_demo_made_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something that no demo made"):
        demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_simulated_is_registered_with_a_team(tmp_path, monkeypatch):
    monkeypatch.setenv("STORM_CLINIC_ARTIFACTS", "s3://bucket/kidney")
    with pytest.raises(InputError, match="simulated models would be registered among real ones"):
        demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_the_cohorts_in_the_repository_are_those_that_the_demo_makes(tmp_path):
    declared = declare_cohorts(Workspace(tmp_path), SEED)
    assert [hospital.cohort for hospital, _ in declared] == ["demo_a", "demo_b", "demo_c"]
    for path in sorted((tmp_path / "cohorts").rglob("*.*")):
        shipped = REPOSITORY / "cohorts" / path.relative_to(tmp_path / "cohorts")
        assert shipped.read_bytes() == path.read_bytes(), path.name


def test_the_demo_writes_all_its_studies_for_whoever_wants_to_run_them(tmp_path):
    written = write_studies(Workspace(tmp_path))
    assert [path.name for path in written] == [path.name for path in STUDIES]
    assert {"demo_grade", "demo_pfs_multi", "demo_relapse", "demo_rna"} < {
        path.stem for path in written
    }
    assert all(
        Study.read(path) == Study.read(REPOSITORY / "pipelines" / path.name) for path in written
    )


def test_the_demo_says_what_its_page_says_of_the_truth():
    study = Study.read(REPOSITORY / "pipelines" / PLANTED)
    result = SimpleNamespace(model=SimpleNamespace(bundle=SimpleNamespace(study=study)))
    page = (REPOSITORY / "docs" / "simulation.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `pfs` \| `c_index` \|  \| everything \|.*$", page, re.MULTILINE)
    assert float(row.split("|")[-3]) == round(truth_of(result), 2)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_of_the_demo_names_what_the_cohorts_declare(path):
    study = Study.read(path)
    assert (REPOSITORY / "pipelines" / path.name).read_bytes() == path.read_bytes()
    for name in (*study.development, *study.validation):
        cohort = Cohort.read(name, Workspace(REPOSITORY))
        table = cohort.outcome(study.endpoint.name)
        assert table.outcome.n_events >= 20
        assert list(cohort.covariates(study.clinical)) == list(study.clinical)
        for measured in cohort.measurements(study.measurements).values():
            assert measured.measured.sum() == cohort.n_patients - cohort.n_patients // 3
        assert cohort.origin.simulated


def test_the_two_hospitals_mean_the_same_by_different_words():
    first, second = (Cohort.read(name, Workspace(REPOSITORY)) for name in ("demo_a", "demo_b"))
    for endpoint, names in {"grade": "levels", "outcome": "causes"}.items():
        one, other = (cohort.outcome(endpoint).outcome for cohort in (first, second))
        assert getattr(one, names) == getattr(other, names)
        assert first.endpoints[endpoint].codes != second.endpoints[endpoint].codes


def test_the_simulated_tables_have_what_real_ones_have():
    cohort = Cohort.read("demo_a", Workspace(REPOSITORY))
    times = cohort.outcome("pfs").outcome.time_months
    assert len(set(times)) < len(times)  # ties
    assert 0 < cohort.patients[["age", "stage"]].isna().to_numpy().sum() < 40
    a_patient = cohort.slides["patient_id"].value_counts()
    assert a_patient.max() > 1
    assert cohort.n_patients > len(a_patient)  # patients without slides
    left = cohort.attrition.excluded()
    assert (left["unit"] == "slides").any()  # a slide of nobody
