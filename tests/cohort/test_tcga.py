"""The shipped manifests on the real tables, against counts made without any of our code."""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival, stratum
from storm_clinic.cohort.split import make_splits
from storm_clinic.cohort.table import Cohort
from storm_clinic.files import Workspace

REPOSITORY = Workspace(Path(__file__).resolve().parents[2])
NAMES = ("tcga_kirc", "tcga_kirp")


@pytest.fixture(params=NAMES)
def real(request, shared_data, monkeypatch) -> tuple[Cohort, list[dict[str, str]]]:
    monkeypatch.setenv("STORM_CLINIC_DATA", str(shared_data))
    with (shared_data / request.param / "clinical.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    return Cohort.read(request.param, REPOSITORY), rows


def test_the_cohorts_have_their_published_size(shared_data, monkeypatch):
    monkeypatch.setenv("STORM_CLINIC_DATA", str(shared_data))
    kirc, kirp = (Cohort.read(name, REPOSITORY) for name in NAMES)
    assert (kirc.n_patients, len(kirc.slides)) == (494, 500)
    assert (kirp.n_patients, len(kirp.slides)) == (270, 292)
    assert not set(kirc.patients.index) & set(kirp.patients.index)


@pytest.mark.parametrize("endpoint", ["OS", "DSS", "PFI", "DFI"])
def test_outcomes_agree_with_a_plain_count(real, endpoint):
    cohort, rows = real
    usable = {
        row["bcr_patient_barcode"]: (float(row[f"{endpoint}.time"]), row[endpoint] == "1.0")
        for row in rows
        if row[endpoint] and row[f"{endpoint}.time"] and float(row[f"{endpoint}.time"]) > 0
    }
    table = cohort.outcome(endpoint.lower())
    assert isinstance(table.outcome, Survival)
    assert set(table.patient_ids) == set(usable)
    days = [usable[patient][0] for patient in table.patient_ids]
    np.testing.assert_allclose(table.outcome.time_months * 30.4375, days)
    assert table.outcome.event.tolist() == [usable[patient][1] for patient in table.patient_ids]
    zero = sum(row[f"{endpoint}.time"] == "0.0" and row[endpoint] != "" for row in rows)
    reasons = Counter(table.attrition.excluded()["reason"])
    assert reasons["time is zero"] == zero > 0
    assert sum(reasons.values()) == len(rows) - len(usable)


def test_stage_four_is_not_read_as_stage_one(real):
    cohort, rows = real
    counted = Counter(row["ajcc_pathologic_tumor_stage"] for row in rows)
    ours = cohort.patients["stage"].value_counts().to_dict()
    assert ours == {f"Stage {n}": counted[f"Stage {n}"] for n in ("I", "II", "III", "IV")}
    assert ours["Stage IV"] == {"tcga_kirc": 76, "tcga_kirp": 14}[cohort.name]
    unknown = counted["[Discrepancy]"] + counted["[Not Available]"]
    assert cohort.patients["stage"].isna().sum() == unknown


def test_missing_covariates_are_counted_as_missing(real):
    cohort, rows = real
    ages = [row["age_at_initial_pathologic_diagnosis"] for row in rows]
    assert cohort.patients["age"].isna().sum() == ages.count("")
    assert cohort.patients["age"].sum() == pytest.approx(sum(float(age) for age in ages if age))
    bracketed = sum(row["race"].startswith("[") for row in rows)
    assert cohort.patients["race"].isna().sum() == bracketed > 0
    if cohort.name == "tcga_kirc":
        grades = Counter(row["histological_grade"] for row in rows)
        assert cohort.patients["grade"].isna().sum() == grades["GX"] + grades["[Not Available]"]


@pytest.mark.parametrize(("name", "file"), [("rna", "expression"), ("mutations", "mutations")])
def test_measurements_are_the_numbers_of_the_file_beside_their_patients(
    real, shared_data, name, file
):
    cohort, rows = real
    with gzip.open(shared_data / cohort.name / f"{file}.csv.gz", "rt", newline="") as handle:
        header, *lines = csv.reader(handle)
    found = cohort.measurements([name])[name]
    assert found.table.index.tolist() == [row["bcr_patient_barcode"] for row in rows]
    assert found.table.columns.tolist() == header[1:]
    n_measured, n_patients = {"tcga_kirc": (334, 494), "tcga_kirp": (257, 270)}[cohort.name]
    assert (int(found.measured.sum()), len(found.table)) == (n_measured, n_patients)
    assert not found.attrition.steps[0].excluded
    for patient, *cells in lines:
        assert found.table.loc[patient].tolist() == list(map(float, cells))


def test_who_has_no_measurement_fares_otherwise_as_the_datasheet_says(shared_data, monkeypatch):
    monkeypatch.setenv("STORM_CLINIC_DATA", str(shared_data))
    cohort = Cohort.read("tcga_kirc", REPOSITORY)
    table = cohort.outcome("pfi")
    assert isinstance(table.outcome, Survival)
    measured = cohort.measurements(["rna"])["rna"].measured[list(table.patient_ids)].to_numpy()
    event = table.outcome.event
    counts = [event[measured].sum(), measured.sum(), event[~measured].sum(), (~measured).sum()]
    sheet = (cohort.manifest_path.parent / "README.md").read_text(encoding="utf-8")
    said = "{} of {} patients with RNA progressed, {} of {} without".format(*counts)
    assert said in " ".join(sheet.split())


def test_real_sites_stay_whole_and_events_are_spread(real):
    cohort, _ = real
    table = cohort.outcome("pfi")
    sites = cohort.patients.loc[list(table.patient_ids), "site"].to_numpy()
    event = stratum(table.outcome)
    splits = make_splits(table.patient_ids, event, sites, folds=5, repeats=3, seed=20261123)
    assert splits.fold.shape == (3, len(sites))
    sizes = Counter(sites)
    for fold in splits.fold:
        assert all(len(set(fold[sites == site])) == 1 for site in sizes)
        # Sites above a fold's share stand alone; the other folds share the rest evenly.
        alone = [site for site, n in sizes.items() if 5 * n > len(sites)]
        for site in alone:
            assert (fold == fold[sites == site][0]).sum() == sizes[site]
        rest = [
            n
            for k, n in enumerate(np.bincount(fold))
            if k not in {fold[sites == s][0] for s in alone}
        ]
        assert max(rest) - min(rest) <= 0.15 * np.mean(rest)
    assert bool(splits.notes) == (cohort.name == "tcga_kirc")


def test_the_datasheet_says_what_the_tables_hold(real):
    cohort, _ = real
    sheet = (cohort.manifest_path.parent / "README.md").read_text(encoding="utf-8")
    for name in cohort.endpoints:
        row = re.search(rf"^\| `{name}` \|[^|]+\| (\d+) \| (\d+) \| ([^|]+) \|$", sheet, re.M)
        assert row, name
        table = cohort.outcome(name)
        assert (int(row[1]), int(row[2])) == (table.outcome.n_patients, table.outcome.n_events)
        left_out = sum(map(int, re.findall(r"(\d+): ", row[3])))
        assert left_out == cohort.n_patients - table.outcome.n_patients
    for name, found in cohort.measurements(list(cohort.measured)).items():
        n, n_columns = found.measured.sum(), found.table.shape[1]
        assert re.search(rf"^\| `{name}` \|[^|]+\| {n} \| {n_columns:,} \|", sheet, re.M), name
    assert re.search(rf"\| patients \| {cohort.n_patients} \|", sheet)
    assert re.search(rf"\| slides \| {len(cohort.slides)} ", sheet)
    assert re.search(rf"\| {cohort.patients['site'].nunique()}, from 1 ", sheet)
