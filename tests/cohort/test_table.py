from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.columns import Column
from storm_clinic.cohort.manifest import read_manifest
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.files import digest_file


def test_columns_have_the_types_that_are_declared(hospital):
    patients = hospital.patients
    assert patients.index.tolist() == [f"P{n}" for n in range(1, 8)]
    assert patients["age"].dtype == np.float64
    assert np.isnan(patients.loc["P3", "age"])
    assert patients.loc["P2", "age"] == 70.5
    assert patients["stage"].cat.categories.tolist() == ["I", "II", "III", "IV"]
    assert patients["stage"].cat.ordered
    assert not patients["sex"].cat.ordered
    assert patients["stage"].isna().tolist() == [False] * 4 + [True] + [False] * 2


def test_outcomes_are_no_covariates(hospital):
    assert set(hospital.patients) == {"age", "age_band", "stage", "sex", "site"}


def test_a_band_holds_its_lower_cut_and_not_its_upper(write_cohort):
    cohort = Cohort.read("hospital", write_cohort(("P1,61", "P1,65"), ("P5,49", "P5,50")))
    bands = cohort.patients["age_band"]
    assert bands["P1"] == ">=65"
    assert bands["P5"] == "50 to <65"
    assert bands.isna()["P3"]
    assert cohort.columns["age_band"] == Column(
        "age_band", "ordinal", "age", levels=("<50", "50 to <65", ">=65")
    )


def test_a_patient_without_a_site_stays_and_has_none(hospital):
    assert hospital.patients["site"].tolist() == ["North"] * 2 + ["South"] * 3 + ["North", None]


def test_cells_can_be_spelt_otherwise_than_levels(write_cohort):
    edit = ("levels: [F, M]}", "levels: [female, male], codes: {F: female, M: male}}")
    cohort = Cohort.read("hospital", write_cohort(edit))
    assert cohort.patients["sex"].tolist()[:2] == ["female", "male"]


def test_a_marker_can_be_missing_in_one_column_only(write_cohort):
    edit = ("levels: [I, II, III, IV]}", "levels: [I, II, III], missing: [IV]}")
    cohort = Cohort.read("hospital", write_cohort(edit))
    assert cohort.patients["stage"].isna()["P3"]


def test_slides_are_placed_under_the_data_or_where_they_say(hospital):
    folder = hospital.manifest_path.parent
    slides = hospital.slides.set_index("slide_id")
    assert slides["path"].tolist() == [
        str(folder / "a/S1.svs"),
        str(folder / "a/S2.svs"),
        "/archive/S3.svs",
    ]
    assert slides["mpp"].tolist()[::2] == [0.5, 0.25]
    assert np.isnan(slides.loc["S2", "mpp"])
    assert slides["scanner"].tolist() == ["Aperio", None, "Aperio"]


def test_a_slide_of_nobody_is_counted_and_named(hospital):
    excluded = hospital.attrition.excluded()
    assert excluded.to_numpy().tolist() == [
        ["S9", "slides", "of known patients", "its patient is not in the clinical table"]
    ]
    assert hospital.attrition.table()["after"].tolist() == [7, 3]


def test_patients_without_slides_stay_but_have_no_bag(hospital):
    join = hospital.join_slides(["P4", "P2", "P1"])
    assert join.patient_ids == ("P2", "P1")
    assert join.slide_ids == (("S3",), ("S1", "S2"))
    assert join.attrition.excluded()[["id", "reason"]].to_numpy().tolist() == [
        ["P4", "no slide in the slides table"]
    ]


def test_slides_without_features_are_counted_and_their_patients_too(hospital):
    join = hospital.join_slides(["P1", "P2"], available={"S2", "elsewhere"})
    assert join.patient_ids == ("P1",)
    assert join.slide_ids == (("S2",),)
    excluded = join.attrition.excluded()
    assert dict(zip(excluded["id"], excluded["reason"], strict=True)) == {
        "S1": "no feature file",
        "S3": "no feature file",
        "P2": "none of its slides has features",
    }


def test_the_steps_of_a_study_follow_one_another(hospital):
    table = hospital.outcome("os")
    join = hospital.join_slides(table.patient_ids, available={"S1", "S3"})
    flow = hospital.attrition.joined(table.attrition).joined(join.attrition)
    assert [(step.unit, step.n_before, step.n_after) for step in flow] == [
        ("patients", 7, 7),
        ("slides", 4, 3),
        ("patients", 7, 4),
        ("slides", 3, 2),
        ("patients", 4, 2),
    ]


def test_features_of_other_slides_are_noticed_at_once(hospital):
    with pytest.raises(CohortError, match="none of 2 patients has a slide among the 1"):
        hospital.join_slides(["P1", "P2"], available={"S1.svs"})


def test_a_cohort_may_have_no_slides_table(write_cohort):
    edit = ("  slides: {path: slides.csv, patient_id: case, slide_id: slide}\n", "")
    cohort = Cohort.read("hospital", write_cohort(edit))
    assert cohort.slides.columns.tolist() == [
        *("slide_id", "patient_id", "path", "mpp", "scanner", "checksum")
    ]
    assert cohort.slides.empty


def test_covariates_are_asked_for_by_declared_names(hospital):
    assert hospital.covariates(["stage", "age"]).columns.tolist() == ["stage", "age"]
    with pytest.raises(CohortError, match="no column 'stages' is declared; did you mean 'stage'"):
        hospital.covariates(["stages"])
    with pytest.raises(CohortError, match="no endpoint 'pfs'; known are os"):
        hospital.outcome("pfs")


def test_every_file_that_was_read_has_its_digest(hospital):
    folder = hospital.manifest_path.parent
    assert hospital.digests == {
        "cohort.yaml": digest_file(folder / "cohort.yaml"),
        "clinical/clinical.csv": digest_file(folder / "clinical.csv"),
        "slides/slides.csv": digest_file(folder / "slides.csv"),
    }
    assert [source.n_rows for source in hospital.sources] == [7, 4]


def test_one_table_may_serve_for_patients_and_slides(write_cohort):
    clinical = "id,slide,age,stage,sex,days,died,centre\n" + "".join(
        f"P1,S{n},61,I,F,300,1,North\n" for n in (1, 2)
    )
    edit = ("path: slides.csv, patient_id: case", "path: clinical.csv, patient_id: id")
    cohort = Cohort.read("hospital", write_cohort(edit, clinical=clinical))
    assert len(cohort.patients) == 1
    assert cohort.slides["slide_id"].tolist() == ["S1", "S2"]
    assert cohort.attrition.table().iloc[0].tolist() == [
        "one row a patient", "rows", 2, 1, "repeats an earlier row of its patient", 1,
    ]  # fmt: skip


def test_what_is_printed_of_a_cohort_names_nobody(hospital):
    assert repr(hospital) == "Cohort('hospital', 7 patients, 3 slides, endpoints: os)"
    shown = repr((hospital.outcome("os"), hospital.join_slides(["P1"])))
    assert "P1" not in shown
    assert "S1" not in shown


def test_reading_leaves_nothing_behind(hospital):
    names = {path.name for path in Path(hospital.manifest_path.parent).iterdir()}
    assert names == {"clinical.csv", "slides.csv", "cohort.yaml"}


def test_the_documented_manifest_is_a_manifest(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "cohorts.md").read_text(encoding="utf-8")
    example = next(block for block in page.split("```yaml\n") if block.startswith("format: 1"))
    path = tmp_path / "cohort.yaml"
    path.write_text(example.split("```")[0], encoding="utf-8")
    manifest = read_manifest(path)
    assert manifest.columns["sex"].meaning == {"female": 0, "male": 1, "1": 1, "2": 0}
