"""Resampling against an area mean that is worked out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.slides.resample import resample, source_span


def area_means(source, offset, step, size):
    """Mean of the piecewise constant source over each output pixel, one axis after the other."""

    def weights(start, n_out, n_in):
        edges = start + step * np.arange(n_out + 1)
        pixel = np.arange(n_in)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.clip(overlap, 0, None) / step

    down = weights(offset[1], size[1], source.shape[0])
    across = weights(offset[0], size[0], source.shape[1])
    return np.einsum("yj,jic,xi->yxc", down, source.astype(float), across, optimize=True)


@pytest.mark.parametrize("step", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.25), (3.0, 0.875)])
def test_whole_steps_give_the_area_mean(step, offset):
    source = np.random.default_rng(1).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    made = resample(source, offset, step, (20, 18))
    assert made.shape == (18, 20, 3)
    # Three roundings to whole grey values: after moving across, moving down, and averaging.
    assert np.abs(made - area_means(source, offset, step, (20, 18))).max() <= 1.5


@pytest.mark.parametrize("step", [1.02, 1.37, 1.9786, 2.004, 5.71])
def test_fractional_steps_give_the_area_mean(step):
    source = np.random.default_rng(2).integers(0, 256, (140, 140, 3), dtype=np.uint8)
    made = resample(source, (0.0, 0.0), step, (21, 17))
    assert np.abs(made - area_means(source, (0.0, 0.0), step, (21, 17))).max() <= 1.0


@pytest.mark.parametrize("step", [1.37, 1.9786, 5.71])
def test_fractional_steps_from_fractional_places_are_near_the_area_mean(texture, step):
    made = resample(texture, (0.4, 0.7), step, (90, 70))
    assert np.abs(made - area_means(texture, (0.4, 0.7), step, (90, 70))).max() <= 5.0


@pytest.mark.parametrize("step", [0.991, 0.998, 1.0, 1.002, 1.009])
def test_pixels_of_about_the_wanted_size_are_taken_as_they_are(step):
    # Grey value = position, so that a value tells which source pixel it came from.
    ramp = np.arange(256, dtype=np.uint8)
    source = np.broadcast_to(ramp[None, :, None], (256, 256, 3)).copy()
    made = resample(source, (3.3, 0.0), step, (224, 224))
    wanted_centre = 3.3 + (np.arange(224) + 0.5) * step
    assert np.abs(made[0, :, 0] + 0.5 - wanted_centre).max() <= 0.5 + 1e-5


def test_taken_pixels_are_a_copy():
    source = np.zeros((8, 8, 3), dtype=np.uint8)
    resample(source, (0.0, 0.0), 1.0, (8, 8))[:] = 9
    assert not source.any()


@pytest.mark.parametrize("step", [0.5, 0.73, 0.98])
def test_enlarging_keeps_a_linear_ramp_in_its_place(step):
    ramp = np.arange(0, 240, 2, dtype=np.uint8)
    source = np.broadcast_to(ramp[:, None, None], (120, 120, 3)).copy()
    made = resample(source, (0.0, 10.0), step, (30, 100))
    # The centre of source pixel k is at k + 0.5 and has the value 2 k.
    wanted = 2 * (10.0 + (np.arange(100) + 0.5) * step - 0.5)
    assert np.abs(made[:, 0, 0] - wanted).max() <= 0.6


@pytest.mark.parametrize("start", [0.0, 0.4, 17.5, -3.25])
@pytest.mark.parametrize("step", [0.7, 0.995, 1.0, 1.004, 1.5, 2.0, 7.3])
def test_the_span_holds_all_that_resampling_needs_and_little_more(start, step):
    first, end = source_span(start, step, 50)
    assert first <= start + 0.5
    assert end >= start + 50 * step - 0.5
    assert end - first <= 50 * step + 3
