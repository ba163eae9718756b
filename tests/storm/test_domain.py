from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import CheckpointError
from storm_clinic.storm.domain import TrainingDomain

WIDTH = 24


def sections(seed, n=6, spread=1.0, n_tiles=150):
    """Tiles around a centre of their section, as real ones lie."""
    rng = np.random.default_rng(seed)
    return {
        f"s{i}": rng.normal(size=WIDTH) * spread + rng.normal(size=(n_tiles, WIDTH))
        for i in range(n)
    }


def test_distance_equals_mahalanobis_of_the_full_matrix():
    domain = TrainingDomain.fit(sections(0))
    axes = domain.components.astype(float)
    covariance = domain.residual_variance * (np.eye(WIDTH) - axes.T @ axes)
    covariance += (axes.T * domain.variances) @ axes
    x = np.random.default_rng(1).normal(size=(7, WIDTH)) * 3
    away = x - domain.mean
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away) / WIDTH)
    assert domain.distance(x) == pytest.approx(expected, rel=1e-4)


def test_sections_of_the_same_kind_are_mostly_inside_and_another_kind_is_outside():
    domain = TrainingDomain.fit(sections(2, n=12))
    fresh = [domain.judge(x) for x in sections(3, n=24).values()]
    # One in thirteen is expected to be outside; more than a third would be another law.
    assert sum(report.warning is not None for report in fresh) <= 8
    assert np.mean([report.share_outside for report in fresh]) < 0.15
    stained = sections(4, n=1)["s0"] + 6.0
    report = domain.judge(stained)
    assert report.share_outside > 0.9
    assert "look unlike the training sections" in report.warning
    assert report.distance > max(one.distance for one in fresh)


def test_the_limit_is_wider_than_that_of_the_tiles_that_were_fitted():
    # Sections that lie far apart: in-sample distances would call each next section foreign.
    training = sections(5, n=5, spread=2.0)
    domain = TrainingDomain.fit(training)
    own = np.concatenate([domain.distance(x) for x in training.values()])
    assert domain.threshold > 1.2 * np.quantile(own, 0.95)


def test_a_domain_survives_being_stored_and_is_small():
    rng = np.random.default_rng(6)
    domain = TrainingDomain.fit({name: rng.normal(size=(90, 1280)) for name in "ab"})
    arrays = domain.to_arrays()
    assert sum(array.nbytes for array in arrays.values()) < 200_000
    again = TrainingDomain.from_arrays(arrays)
    x = rng.normal(size=(5, 1280)).astype(np.float16)
    assert again.distance(x).tobytes() == domain.distance(x).tobytes()
    assert again.threshold == domain.threshold
    with pytest.raises(CheckpointError, match="mean"):
        TrainingDomain.from_arrays({**arrays, "mean": arrays["mean"][:5]})


def test_order_of_sections_changes_nothing():
    training = sections(7)
    shuffled = dict(reversed(training.items()))
    one, other = TrainingDomain.fit(training), TrainingDomain.fit(shuffled)
    assert one.threshold == other.threshold


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"a": np.ones((5, 3))}, "at least two sections"),
        ({"a": np.ones((5, 3)), "b": np.ones((5, 3))}, "are the same"),
        ({"a": np.ones((5, 3)), "b": np.ones((5, 4))}, "widths"),
        ({"a": np.ones((5, 3)), "b": np.full((5, 3), np.nan)}, "section b"),
    ],
)
def test_what_says_nothing_about_a_domain_is_refused(training, message):
    with pytest.raises(CheckpointError, match=message):
        TrainingDomain.fit(training)
