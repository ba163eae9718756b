"""Development in feature space: distances, threshold and sample mean what they say. Simulated."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from storm_clinic.errors import FeatureError, StatisticsError
from storm_clinic.features.reference import FeatureReference


def embeddings(n: int, width: int, seed: int) -> np.ndarray:
    """Simulated mean embeddings whose variance falls from direction to direction, as real ones'."""
    scale = 1 / np.arange(1, width + 1) ** 0.8
    return np.random.default_rng(seed).normal(size=(n, width)) * scale + 3.0


def first_half(x: np.ndarray, seed: int) -> np.ndarray:
    """Those whom the axes are made of."""
    return x[np.random.default_rng(seed).permutation(len(x))[: len(x) // 2]]


def test_the_distance_is_that_of_probabilistic_pca():
    x, new = embeddings(200, 50, 1), embeddings(30, 50, 2)
    reference = FeatureReference.of(x, seed=5)
    half = first_half(x, 5)
    # Scikit-learn scores under the same model, by other means: its covariance inverted.
    pca = PCA(n_components=len(reference.eigenvalues)).fit(half)
    covariance = pca.get_covariance()
    away = new - pca.mean_
    expected = np.sqrt(np.einsum("ij,jk,ik->i", away, np.linalg.inv(covariance), away))
    np.testing.assert_allclose(reference.distance(new), expected, rtol=1e-5)


@pytest.mark.parametrize(("n", "width"), [(600, 40), (150, 500)], ids=["n > d", "n < d"])
def test_about_one_in_a_hundred_of_the_same_kind_is_outside_and_none_of_another(n, width):
    shares, far = [], []
    for seed in range(8):
        x = embeddings(n + 400, width, seed)
        reference = FeatureReference.of(x[:n], seed=seed)
        shares.append(reference.is_outside(x[n:]).mean())
        far.append(reference.is_outside(x[n:] + 3.0).mean())
    # Of 3,200 patients. Distances of the patients to whom the axes were fitted would give a
    # threshold that nearly everybody is beyond where n < d.
    assert 0.004 < np.mean(shares) < 0.02
    assert min(far) == 1.0


def test_the_sample_spreads_as_new_patients_do_though_axes_were_fitted_to_few():
    x = embeddings(1000, 400, 3)
    reference = FeatureReference.of(x[:200], seed=3)
    fitted_to = reference.project(first_half(x[:200], 3))
    np.testing.assert_allclose(fitted_to.std(axis=0, ddof=1), 1.0, rtol=1e-4)
    spread = reference.project(x[200:]).std(axis=0).mean()
    assert spread < 0.95
    assert reference.sample.std(axis=0).mean() == pytest.approx(spread, rel=0.05)


def test_the_sample_is_of_patients_and_of_no_more_than_512():
    reference = FeatureReference.of(embeddings(1300, 3, 4), seed=1)
    assert reference.sample.shape == (512, 3)
    assert len(np.unique(reference.sample, axis=0)) == 512
    small = embeddings(41, 3, 4)
    reference = FeatureReference.of(small, seed=1)
    placed = reference.project(small).astype(np.float32)
    of_whom = [int(np.flatnonzero((placed == row).all(axis=1))[0]) for row in reference.sample]
    assert len(of_whom) == 21
    assert of_whom != sorted(of_whom)


def test_ten_patients_behave_and_nine_are_too_few():
    x = embeddings(10, 300, 6)
    reference = FeatureReference.of(x, seed=0)
    assert len(reference.eigenvalues) == 2  # half of the degrees of freedom of five patients
    assert reference.n_patients == 10
    assert np.isfinite(reference.distance(embeddings(5, 300, 7))).all()
    with pytest.raises(StatisticsError, match="9 patients with tiles are too few"):
        FeatureReference.of(x[1:], seed=0)


def test_below_a_hundred_patients_nobody_of_development_is_beyond_the_threshold():
    x = embeddings(60, 20, 8)
    reference = FeatureReference.of(x, seed=2)
    second_half = np.random.default_rng(2).permutation(60)[30:]
    assert reference.distance(x[second_half]).max() <= reference.threshold


def test_patients_without_tiles_are_left_out_and_are_nowhere():
    x = embeddings(40, 6, 9)
    with_gaps = np.vstack([x, np.full((3, 6), np.nan)])
    reference = FeatureReference.of(with_gaps, seed=1)
    assert reference.n_patients == 40
    np.testing.assert_array_equal(reference.mean, FeatureReference.of(x, seed=1).mean)
    assert np.isnan(reference.distance(with_gaps)[40:]).all()
    assert not reference.is_outside(with_gaps)[40:].any()


def test_a_column_that_never_varied_matters_only_where_it_varies_now():
    x = embeddings(80, 6, 10)
    constant = np.hstack([x, np.full((80, 2), 7.25)])
    reference = FeatureReference.of(constant, seed=1)
    new = embeddings(20, 6, 11)
    np.testing.assert_allclose(
        reference.distance(np.hstack([new, np.full((20, 2), 7.25)])),
        FeatureReference.of(x, seed=1).distance(new),
        rtol=1e-5,
    )
    assert reference.is_outside(np.hstack([x[:20], np.full((20, 2), 7.75)])).all()


def test_patients_who_are_all_the_same_give_no_reference():
    with pytest.raises(StatisticsError, match="are the same"):
        FeatureReference.of(np.full((30, 5), 0.1), seed=0)


def test_units_and_direction_of_features_do_not_matter():
    x, new = embeddings(100, 8, 12), embeddings(10, 8, 13)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))
    turned = FeatureReference.of(x @ rotation * 250 - 4, seed=4)
    straight = FeatureReference.of(x, seed=4)
    assert turned.threshold == pytest.approx(straight.threshold, rel=1e-4)
    np.testing.assert_allclose(
        turned.distance(new @ rotation * 250 - 4), straight.distance(new), rtol=1e-4
    )


def test_arrays_give_the_same_reference_back_to_the_bit():
    reference = FeatureReference.of(embeddings(50, 30, 14), seed=2)
    arrays = reference.to_arrays()
    again = FeatureReference.from_arrays(arrays)
    assert again.to_arrays().keys() == arrays.keys()
    for name, array in again.to_arrays().items():
        assert array.tobytes() == arrays[name].tobytes(), name
    new = embeddings(9, 30, 15)
    assert again.distance(new).tobytes() == reference.distance(new).tobytes()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: a.pop("mean"), "missing or unknown array mean"),
        (lambda a: a.update(site=np.zeros(3)), "missing or unknown array site"),
        (lambda a: a.update(mean=np.zeros(3)), r"mean has shape \(3,\), not \(30,\)"),
        (lambda a: a["eigenvalues"].fill(np.nan), "eigenvalues has .* not finite"),
        (lambda a: a.update(threshold=np.array(1.0)), r"threshold has shape \(\)"),
    ],
)
def test_arrays_of_another_form_are_refused_by_name(change, problem):
    arrays = FeatureReference.of(embeddings(50, 30, 14), seed=2).to_arrays()
    change(arrays)
    with pytest.raises(FeatureError, match=problem):
        FeatureReference.from_arrays(arrays)


def test_embeddings_of_another_width_are_refused_with_both_widths():
    reference = FeatureReference.of(embeddings(50, 30, 14), seed=2)
    with pytest.raises(FeatureError, match="29 values a patient; development's have 30"):
        reference.distance(np.zeros((2, 29)))
