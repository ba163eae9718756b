from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from storm_clinic.errors import SectionError, StatisticsError
from storm_clinic.storm.baselines import (
    ALPHAS,
    context_mean,
    hest_probe,
    library_predictor,
    mean_predictor,
    tuned_alpha,
    tuned_ridge,
)
from storm_clinic.storm.map_agreement import gene_correlation


def sections(n_sections=4, n_spots=40, widths=(90, 60), n_genes=6, noise=1.0, seed=0):
    """Blocks and expression that is linear in them, with noise; each section of another size."""
    rng = np.random.default_rng(seed)
    slopes = [rng.normal(size=(width, n_genes)) / np.sqrt(width) for width in widths]
    blocks, targets = [], []
    for place in range(n_sections):
        size = n_spots + 3 * place
        own = [rng.normal(2, 3, (size, width)).astype(np.float32) for width in widths]
        signal = sum(block @ slope for block, slope in zip(own, slopes, strict=True))
        blocks.append(own)
        targets.append((signal + noise * rng.normal(size=signal.shape)).astype(np.float32))
    return blocks, targets


def by_sklearn(blocks, targets, test_blocks, alpha):
    """The same ridge in its primal form."""
    train, test = [], []
    for place, block in enumerate(test_blocks):
        width = np.sqrt(block.shape[1])
        scaler = StandardScaler().fit(np.concatenate([one[place] for one in blocks]).astype(float))
        train.append(
            scaler.transform(np.concatenate([one[place] for one in blocks]).astype(float)) / width
        )
        test.append(scaler.transform(block.astype(float)) / width)
    ridge = Ridge(alpha=alpha).fit(np.hstack(train), np.concatenate(targets))
    return ridge.predict(np.hstack(test))


@pytest.mark.parametrize("widths", [(90, 60), (5, 3)])  # more features than spots, and fewer
def test_the_tuned_ridge_is_sklearns_with_the_penalty_that_did_best_on_left_out_sections(widths):
    blocks, targets = sections(widths=widths, noise=4.0)
    training, expression, test = blocks[:3], targets[:3], blocks[3]
    mean_r = []
    for alpha in ALPHAS:
        r = []
        for out in range(3):
            kept = [place for place in range(3) if place != out]
            predicted = by_sklearn(
                [training[k] for k in kept], [expression[k] for k in kept], training[out], alpha
            )
            r.append(gene_correlation(expression[out], predicted).mean())
        mean_r.append(np.mean(r))
    best = ALPHAS[int(np.argmax(mean_r))]
    assert tuned_alpha(training, expression) == best
    np.testing.assert_allclose(
        tuned_ridge(training, expression, test),
        by_sklearn(training, expression, test, best),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_penalty_grows_with_noise_and_the_test_section_has_no_say():
    quiet = tuned_alpha(*sections(noise=0.1))
    loud = tuned_alpha(*sections(noise=20.0))
    assert quiet < loud
    # One spot's prediction does not change with who else is predicted.
    blocks, targets = sections()
    whole = tuned_ridge(blocks[:3], targets[:3], blocks[3])
    part = tuned_ridge(blocks[:3], targets[:3], [block[:5] for block in blocks[3]])
    np.testing.assert_allclose(part, whole[:5], rtol=1e-9)


def test_blocks_weigh_alike_however_wide():
    blocks, targets = sections()
    # A block whose columns are all there four times is the same block.
    wide = [[first, np.tile(second, (1, 4))] for first, second in blocks]
    np.testing.assert_allclose(
        tuned_ridge(wide[:3], targets[:3], wide[3]),
        tuned_ridge(blocks[:3], targets[:3], blocks[3]),
        rtol=1e-8,
    )


def test_features_may_be_scaled_or_shifted_and_a_constant_one_changes_nothing():
    blocks, targets = sections()
    changed = [
        [np.hstack([7 * first.astype(float) - 30, np.ones((len(first), 1))]), second]
        for first, second in blocks
    ]
    np.testing.assert_allclose(
        tuned_ridge(changed[:3], targets[:3], changed[3]),
        tuned_ridge(blocks[:3], targets[:3], blocks[3]),
        rtol=1e-6,
    )


@pytest.mark.parametrize(("n_spots", "width"), [(110, 300), (30, 300), (110, 20)])
def test_hests_probe_is_a_scaler_components_and_a_ridge(n_spots, width):
    blocks, targets = sections(n_sections=4, n_spots=n_spots, widths=(width,))
    features = [own[0] for own in blocks]
    train = np.concatenate(features[:3]).astype(float)
    n_components = min(256, *train.shape)
    pipe = make_pipeline(StandardScaler(), PCA(n_components, svd_solver="full"))
    scores = pipe.fit_transform(train)
    y = np.concatenate(targets[:3]).astype(float)
    ridge = Ridge(alpha=100 / (n_components * 6), fit_intercept=False).fit(scores, y - y.mean(0))
    expected = ridge.predict(pipe.transform(features[3].astype(float))) + y.mean(0)
    found = hest_probe(features[:3], targets[:3], features[3])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_gene_that_is_flat_in_one_section_does_not_stop_tuning():
    blocks, targets = sections()
    targets[1][:, 2] = 0.0
    assert tuned_alpha(blocks, targets) in ALPHAS
    flat = [np.zeros_like(target) for target in targets]
    with pytest.raises(StatisticsError, match="no gene varies"):
        tuned_alpha(blocks, flat)


def test_the_mean_of_training_spots_has_an_error_but_no_correlation():
    _, targets = sections()
    predicted = mean_predictor(targets[:3], len(targets[3]))
    np.testing.assert_allclose(predicted[7], np.concatenate(targets[:3]).mean(axis=0), rtol=1e-5)
    assert np.isnan(gene_correlation(targets[3], predicted)).all()


def test_the_library_control_is_least_squares_on_the_log_of_totals():
    rng = np.random.default_rng(4)
    libraries = [rng.integers(200, 9000, 40 + 3 * place) for place in range(4)]
    _, targets = sections()
    line = LinearRegression().fit(
        np.log(np.concatenate(libraries[:3]))[:, None], np.concatenate(targets[:3]).astype(float)
    )
    np.testing.assert_allclose(
        library_predictor(libraries[:3], targets[:3], libraries[3]),
        line.predict(np.log(libraries[3])[:, None]),
        rtol=1e-8,
    )
    with pytest.raises(SectionError, match="no counts"):
        library_predictor(libraries[:3], targets[:3], np.array([10, 0]))


def test_the_mean_of_a_context_is_over_those_that_are_there():
    features = np.array([[1.0, 0.0], [3.0, 4.0], [8.0, 2.0]], dtype=np.float32)
    rows = np.array([[-1, 0, 1], [0, 1, 2], [-1, 2, -1]])
    np.testing.assert_allclose(
        context_mean(features, rows), [[2.0, 2.0], [4.0, 2.0], [8.0, 2.0]], rtol=1e-6
    )
    with pytest.raises(SectionError, match="own neighbourhood"):
        context_mean(features, np.array([[1], [0], [1]]))
    with pytest.raises(SectionError, match="up to row 3"):
        context_mean(features, np.array([[0], [1], [3]]))


def test_what_does_not_go_together_is_refused_by_the_section_at_fault():
    blocks, targets = sections()
    with pytest.raises(SectionError, match="at least two"):
        tuned_alpha(blocks[:1], targets[:1])
    with pytest.raises(SectionError, match="features of 4 sections, expression of 3"):
        tuned_alpha(blocks, targets[:3])
    with pytest.raises(SectionError, match=r"section 0: blocks are \[90, 60\] features wide"):
        tuned_ridge(blocks[:3], targets[:3], blocks[3][:1])
    targets[1][0, 0] = np.nan
    with pytest.raises(SectionError, match="section 1: a feature or an expression is not finite"):
        tuned_alpha(blocks, targets)
