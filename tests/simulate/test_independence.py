"""What must have nothing to do with each other has not: outcomes, slides, streams, laboratories."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sksurv.metrics import concordance_index_censored

from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import simulate_patients
from storm_clinic.simulate.workspace import make_workspace
from storm_clinic.slides.reader import open_slide

N_COHORTS = 200


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda hospital: hospital.cohort)
def test_over_many_cohorts_of_this_size_the_control_is_ranked_by_chance(hospital):
    ranked, tied_to_pfs = [], []
    for seed in range(N_COHORTS):
        patients = simulate_patients(hospital, np.random.default_rng(seed))
        table, unit = patients.table, hospital.time_unit
        event = table["control_status"].isin(["1", "event"]).to_numpy()
        time = table[f"control_{unit}"].astype(float).to_numpy()
        ranked.append(concordance_index_censored(event, time, patients.planted_share)[0])
        tied_to_pfs.append(spearmanr(time, table[f"pfs_{unit}"].astype(float))[0])
    for values, expected in ((ranked, 0.5), (tied_to_pfs, 0.0)):
        standard_error = np.std(values, ddof=1) / np.sqrt(N_COHORTS)
        assert abs(np.mean(values) - expected) < 3.5 * standard_error


def test_no_two_random_streams_of_a_workspace_are_the_same(tmp_path, tiny_hospitals, monkeypatch):
    streams = []
    make = np.random.default_rng

    def recorded(seed=None):
        stream = make(seed)
        if isinstance(seed, tuple):
            streams.append((seed, stream))
        return stream

    monkeypatch.setattr(np.random, "default_rng", recorded)
    made = make_workspace(tmp_path, seed=3, hospitals=tiny_hospitals)
    first_numbers = [make(seed).random() for seed, _ in streams]
    assert len(first_numbers) == len(tiny_hospitals) + made.n_slides
    for seed, stream in streams:
        spawned = stream.bit_generator.seed_seq.n_children_spawned
        first_numbers += [child.random() for child in make(seed).spawn(spawned)]
    # Two later endpoints and expression have streams of their own.
    assert len(first_numbers) == made.n_slides + 4 * len(tiny_hospitals)
    assert len(set(first_numbers)) == len(first_numbers)


def test_the_two_laboratories_stain_differently(tiny_workspace):
    """Hues of tissue vary between hospitals more than within one."""
    means = []
    for cohort in tiny_workspace.cohorts:
        folder = tiny_workspace.workspace.root / "slides" / cohort
        means.append([_tint(path) for path in sorted(folder.glob("*-1.tiff"))])
    first, second = (np.array([tint for tint in tints if tint is not None]) for tints in means)
    assert abs(first.mean() - second.mean()) > 3 * max(first.std(), second.std())


def _tint(path) -> float | None:
    """Blue against green absorbed by the tissue, which the dyes' strength hardly changes."""
    with open_slide(path) as slide:
        pixels = slide.thumbnail(4.0)[0].reshape(-1, 3).astype(float)
    density = -np.log(np.maximum(pixels, 1) / pixels.max(axis=0))
    tissue = density[:, 1] > 0.25
    if not tissue.any():
        return None
    return float(density[tissue, 2].sum() / density[tissue, 1].sum())
