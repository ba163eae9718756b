"""Models on a real cohort, within what others found there."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored

from storm_clinic.cohort.outcome import DAYS_PER_MONTH, Survival, stratum
from storm_clinic.cohort.split import make_splits
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Sample
from storm_clinic.heads.fit import cross_validate
from storm_clinic.study import ModelSpec

STAGES = ["Stage I", "Stage II", "Stage III", "Stage IV"]


@pytest.fixture(scope="module")
def kirc(shared_data: Path) -> tuple[Sample, np.ndarray]:
    """Clear cell kidney cancer: progression-free interval, and the hospitals."""
    folder = shared_data / "tcga_kirc"
    table = pd.read_csv(folder / "clinical.csv").set_index("bcr_patient_barcode")
    slides = pd.read_csv(folder / "slides.csv").groupby("case_id")["slide_id"].apply(list)
    table = table[(table["PFI.time"] > 0) & table["PFI"].notna()].loc[
        lambda t: t.index.isin(slides.index)
    ]
    bags = []
    for patient in table.index:
        parts = []
        for slide in slides[patient]:
            with h5py.File(folder / "features" / f"{slide}.h5") as handle:
                parts.append(handle["features"][:])
        bags.append(np.concatenate(parts))
    stage = table["ajcc_pathologic_tumor_stage"]
    clinical = pd.DataFrame(
        {
            "age": table["age_at_initial_pathologic_diagnosis"].astype(float),
            "stage": pd.Categorical(stage.where(stage.isin(STAGES)), STAGES, ordered=True),
        }
    )
    outcome = Survival.from_arrays(table["PFI.time"] / DAYS_PER_MONTH, table["PFI"].astype(int))
    data = PatientData(tuple(table.index), Bags.from_arrays(bags), clinical)
    return Sample(data, outcome), table["tissue_source_site"].to_numpy(object)


@pytest.mark.parametrize(
    ("head", "inputs", "published", "tolerance"),
    [
        ("cox", ("clinical",), 0.765, 0.04),
        ("pca-cox", ("image",), 0.695, 0.04),
        ("coxnet", ("image",), 0.695, 0.04),
        ("pca-cox", ("image", "clinical"), 0.762, 0.05),
    ],
)
def test_concordance_on_kidney_cancer_is_where_others_found_it(
    kirc, head, inputs, published, tolerance
):
    sample, sites = kirc
    keys, events = sample.data.keys, stratum(sample.outcome)
    fold = make_splits(keys, events, sites, folds=5, repeats=1, seed=20261123).fold
    spec = ModelSpec(name="m", head=head, inputs=inputs)
    result = cross_validate(
        spec,
        sample.data,
        sample.outcome,
        fold,
        horizons_months=(12.0, 36.0, 60.0),
        groups=sites,
        seed=20261123,
    )
    found = []
    for number in range(5):
        at = fold[0] == number
        event, time = sample.outcome.event[at], sample.outcome.time_months[at]
        found.append(concordance_index_censored(event, time, result.risk[0, at])[0])
    assert np.mean(found) == pytest.approx(published, abs=tolerance)
