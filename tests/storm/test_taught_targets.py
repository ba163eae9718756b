"""What is taught of a spot: measured expression, made less noisy by genes that go together."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import TrainingError
from storm_clinic.storm.taught_targets import half_along_axes

ALL = np.ones(6, dtype=bool)


def spots(rank: int | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6)) * np.array([3.0, 2.0, 1.5, 1.0, 0.5, 0.2])
    if rank is not None:
        values = values[:, :rank] @ rng.normal(size=(rank, 6))
    return np.split(values.astype(np.float32), [15])


def test_half_of_the_target_is_the_nearest_table_of_that_rank():
    given = spots()
    found = half_along_axes(given, 2, ALL)
    u, s, vt = np.linalg.svd(np.concatenate(given), full_matrices=False)  # Eckart and Young
    nearest = u[:, :2] * s[:2] @ vt[:2]
    np.testing.assert_allclose(
        np.concatenate(found), (np.concatenate(given) + nearest) / 2, atol=1e-5
    )
    assert [len(part) for part in found] == [15, 25]


def test_what_lies_along_the_axes_already_stays_as_it_is():
    for given, n_axes in ((spots(rank=2), 2), (spots(), 6)):
        found = half_along_axes(given, n_axes, ALL)
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(given), atol=1e-4)


def test_genes_that_some_panel_lacks_stay_as_they_are_and_move_no_other():
    given = spots()
    others = [part.copy() for part in given]
    for part in others:
        part[:, 0] = 50 * np.random.default_rng(1).normal(size=len(part))
    partly = np.array([False, True, True, True, True, True])
    found, same = (half_along_axes(targets, 2, partly) for targets in (given, others))
    for one, other, own in zip(found, same, given, strict=True):
        np.testing.assert_array_equal(one[:, 0], own[:, 0])
        np.testing.assert_array_equal(one[:, 1:], other[:, 1:])
        assert np.abs(one[:, 1:] - own[:, 1:]).max() > 0.01


def test_more_axes_than_there_are_genes_are_refused():
    with pytest.raises(TrainingError, match="40 spots of 6 genes do not have 7 axes"):
        half_along_axes(spots(), 7, ALL)
