from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from storm_clinic.errors import SectionError
from storm_clinic.storm.image_scale import principal_axes, scale_slide


@pytest.fixture
def tiles() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8)) + 5


def test_a_slide_is_scaled_as_scikit_learn_scales_it(tiles):
    np.testing.assert_allclose(scale_slide(tiles), StandardScaler().fit_transform(tiles), atol=1e-5)


def test_a_slide_stained_stronger_says_the_same(tiles):
    np.testing.assert_allclose(scale_slide(tiles * 1.7 + 3), scale_slide(tiles), atol=1e-5)


def test_a_single_tile_and_a_constant_number_become_zero():
    assert not scale_slide(np.array([[3.0, 4.0]])).any()
    assert not scale_slide(np.array([[3.0, 1.0], [3.0, 2.0]]))[:, 0].any()


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(SectionError, match="finite"):
        scale_slide(np.array([[1.0], [np.nan]]))


def test_axes_are_those_of_pca_divided_by_the_fourth_root_of_their_variance(tiles):
    scaled = [scale_slide(tiles[:120]), scale_slide(tiles[120:])]
    axes = principal_axes(scaled, 3)
    pca = PCA(3).fit(np.concatenate(scaled))
    variance = pca.explained_variance_ * (len(tiles) - 1) / len(tiles)
    expected = pca.components_ / variance[:, None] ** 0.25
    np.testing.assert_allclose(np.abs(axes), np.abs(expected), rtol=1e-3, atol=1e-4)
    assert (axes[np.arange(3), np.abs(axes).argmax(axis=1)] > 0).all()


def test_more_axes_than_tiles_span_are_refused(tiles):
    with pytest.raises(SectionError, match="do not span"):
        principal_axes([scale_slide(tiles[:4])], 6)
