"""The ridge that teaches beside what was measured: what it sees, and what it must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from storm_clinic.errors import TrainingError
from storm_clinic.storm.baselines import tuned_alpha
from storm_clinic.storm.linear_teacher import TeacherView, foretold_by_others, near_means

N_SPOTS, WIDTH, GENES = 40, 6, 3


def view(group: str, seed: int) -> TeacherView:
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(size=(N_SPOTS, WIDTH)).astype(np.float32) for _ in range(2)]
    target = blocks[0][:, :GENES] + rng.normal(size=(N_SPOTS, GENES))
    return TeacherView(group, blocks, target.astype(np.float32))


@pytest.fixture(scope="module")
def views() -> list[TeacherView]:
    return [view(group, seed) for seed, group in enumerate("abcd")]


def test_a_section_is_foretold_by_scikit_learns_ridge_on_the_others(views):
    found = foretold_by_others(views)
    for place, one in enumerate(views):
        others = [other for other in views if other is not one]
        targets = [other.target for other in others]
        alpha = tuned_alpha([other.blocks for other in others], targets)
        # Blocks weigh alike: each is divided by the root of its width.
        scaler = StandardScaler().fit(np.vstack([np.hstack(o.blocks) for o in others]))

        def features(some: TeacherView, scaler: StandardScaler = scaler) -> np.ndarray:
            return scaler.transform(np.hstack(some.blocks)) / np.sqrt(WIDTH)

        ridge = Ridge(alpha=alpha).fit(np.vstack([features(o) for o in others]), np.vstack(targets))
        said = ridge.predict(features(one))
        np.testing.assert_allclose(found[place], said - said.mean(axis=0), atol=1e-4)


def test_no_section_is_foretold_from_its_own_expression_nor_from_its_patients(views):
    same = [replace(one, group="ab") if one.group in "ab" else one for one in views]
    same.append(view("e", 9))
    rng = np.random.default_rng(3)
    changed = [
        replace(one, target=rng.permutation(one.target)) if one.group == "ab" else one
        for one in same
    ]
    before, after = foretold_by_others(same), foretold_by_others(changed)
    for place in (0, 1):  # both sections of the patient
        np.testing.assert_array_equal(before[place], after[place])
    assert np.abs(before[2] - after[2]).max() > 0.01


def test_means_around_spots_fall_with_distance_and_leave_out_what_is_not_there():
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(3.0), np.arange(3.0))
    xy, image = np.stack([x, y], axis=-1).reshape(-1, 2) * 50.0, rng.normal(size=(9, WIDTH))
    around = np.array([np.arange(9), [-1, -1, -1, -1, 0, 1, -1, 3, 4]])
    found = near_means(image, xy, around, pitch_um=50.0)
    for reach, block in zip((0.5, 1.5), found, strict=True):
        for spot, centre in enumerate((4, 0)):
            rows = [row for row in around[spot] if row >= 0]
            steps = [np.hypot(*(xy[row] - xy[centre])) / 50.0 for row in rows]
            expected = np.average(image[rows], axis=0, weights=np.exp(-np.array(steps) / reach))
            np.testing.assert_allclose(block[spot], expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_takes_three_sections(views):
    with pytest.raises(TrainingError, match="2 sections or patients, and a teacher takes 3"):
        foretold_by_others(views[:2])
