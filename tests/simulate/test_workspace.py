"""A made workspace: files that the rest of the program reads like anybody's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import NoTissue, UnreadableSlide
from storm_clinic.files import digest_folder
from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import simulate_patients
from storm_clinic.simulate.slide_file import read_truth
from storm_clinic.simulate.slide_plan import plan_slides
from storm_clinic.simulate.workspace import make_workspace
from storm_clinic.slides.reader import open_slide
from storm_clinic.slides.tissue import tissue_of


def listed(made, cohort):
    return pd.read_csv(made.workspace.cohorts / cohort / "slides.csv", dtype=str)


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(
    tmp_path, tiny_workspace, tiny_hospitals
):
    told = []
    again = make_workspace(
        tmp_path / "again",
        seed=3,
        hospitals=tiny_hospitals,
        progress=lambda *now: told.append(now),
    )
    first = digest_folder(tiny_workspace.workspace.root)
    assert digest_folder(again.workspace.root) == first
    assert told[-1] == ("simulating slides", again.n_slides, again.n_slides)
    other = make_workspace(tmp_path / "other", seed=4, hospitals=tiny_hospitals)
    second = digest_folder(other.workspace.root)
    shared = [name for name in first.keys() & second.keys() if name.endswith((".tiff", ".csv"))]
    alike = [name for name in shared if first[name] == second[name]]
    assert len(shared) > 8
    assert len(alike) <= 1  # a blank slide is blank


def test_every_listed_slide_is_there_and_no_two_are_alike(tiny_workspace):
    root = tiny_workspace.workspace.root
    paths = [
        root / path
        for cohort in tiny_workspace.cohorts
        for path in listed(tiny_workspace, cohort)["path"]
    ]
    assert len(paths) == tiny_workspace.n_slides
    assert sorted(paths) == sorted((root / "slides").rglob("*.tiff"))
    assert len({path.read_bytes() for path in paths}) == len(paths)


@pytest.mark.parametrize(
    ("cohort", "mpp", "size"), [("demo_a", 0.5, (1120, 896)), ("demo_b", 0.25, (1792, 1792))]
)
def test_slides_are_pyramids_that_state_their_resolution(tiny_workspace, cohort, mpp, size):
    table = listed(tiny_workspace, cohort)
    path = tiny_workspace.workspace.root / table["path"][0]
    with open_slide(path) as slide:
        assert slide.vendor == "generic-tiff"
        assert slide.codec == "JPEG"
        assert slide.size == size
        assert slide.level_downsamples == (1.0, 4.0)
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(mpp), "slide")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].description.startswith("SIMULATED")


def test_spoilt_slides_fail_in_their_own_way_and_sound_ones_do_not(tiny_workspace):
    failed = []
    for cohort in tiny_workspace.cohorts:
        for path in listed(tiny_workspace, cohort)["path"]:
            try:
                with open_slide(tiny_workspace.workspace.root / path) as slide:
                    tissue_of(slide)
            except (NoTissue, UnreadableSlide) as error:
                failed.append(type(error))
    assert sorted(failed, key=str) == sorted([NoTissue, UnreadableSlide], key=str)


def test_the_truth_is_a_picture_of_the_whole_slide(tiny_workspace):
    truths = sorted((tiny_workspace.truth / "demo_a").glob("*.png"))
    table = listed(tiny_workspace, "demo_a")
    # The blank slide has none.
    assert len(truths) == len(table) - 1
    planted = read_truth(truths[0])
    assert planted.mask.shape == (448 / 8, 560 / 8)
    assert 0 < planted.area_mm2 < 0.25


def test_cohorts_read_like_anybodys_and_say_that_they_are_simulated(tiny_workspace, tiny_hospitals):
    for hospital in tiny_hospitals:
        cohort = Cohort.read(hospital.cohort, tiny_workspace.workspace)
        assert cohort.origin.simulated
        assert cohort.n_patients == hospital.n_patients
        months = cohort.outcome("pfs").outcome.time_months
        # Days or months, visits are monthly: but for whole days, months are whole.
        assert np.abs(months - months.round()).max() < 0.02
        left = cohort.attrition.excluded()
        assert (left["unit"] == "slides").sum() == hospital.n_orphans
        readme = tiny_workspace.workspace.cohorts / hospital.cohort / "README.md"
        assert "SIMULATED" in readme.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_plan_spoils_as_many_slides_as_the_hospital_says(seed):
    hospital = HOSPITALS[0]
    rng = np.random.default_rng(seed)
    patients = simulate_patients(hospital, rng)
    plans = plan_slides(hospital, patients, rng)
    by_patient = pd.Series([plan.patient for plan in plans]).value_counts()
    known = set(patients.table["patient"])
    assert len(known - set(by_patient.index)) == hospital.n_without_slides
    assert len(set(by_patient.index) - known) == hospital.n_orphans
    spoilt = {plan.condition: plan for plan in plans if plan.condition != "whole"}
    assert by_patient[spoilt["blank"].patient] == 1
    assert by_patient[spoilt["truncated"].patient] == 2
    assert (
        sum(plan.condition != "whole" for plan in plans) == hospital.n_blank + hospital.n_truncated
    )
    assert (by_patient > 1).sum() > 3
    assert len({plan.slide_id for plan in plans}) == len(plans)


def test_slides_of_a_patient_have_about_the_patients_share():
    rng = np.random.default_rng(0)
    patients = simulate_patients(HOSPITALS[0], rng)
    share = dict(zip(patients.table["patient"], patients.planted_share, strict=True))
    plans = [plan for plan in plan_slides(HOSPITALS[0], patients, rng) if plan.patient in share]
    pairs = np.array([(plan.planted_share, share[plan.patient]) for plan in plans])
    assert np.corrcoef(pairs.T)[0, 1] > 0.95
    assert np.ptp(pairs[:, 0]) > 0.8
