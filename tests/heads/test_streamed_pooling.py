"""Sums, maxima and choices over the chunks of one bag against the same over the whole of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storm_clinic.heads.network_inputs import TileScale
from storm_clinic.heads.pooling import MaxPooling
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.streamed_pooling import HiddenStream, highest_of_parts
from storm_clinic.heads.tile_tensors import TileForm, TileStream

N_TILES, WIDTH, CHUNK = 50, 6, 8


def tile_stream(tiles: np.ndarray, chunk: int = CHUNK, **given) -> TileStream:
    scale = TileScale(np.zeros(tiles.shape[1]), np.ones(tiles.shape[1]))
    return TileStream(tiles, TileForm(scale, torch.float64, torch.float64), chunk, **given)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 7, 8, 50, 99])
def test_a_mean_over_chunks_and_its_gradient_are_those_of_a_softmax_over_all_tiles(chunk):
    n_branches, n_heads, width = 3, 2, 3
    tiles = drawn(N_TILES, WIDTH)
    layer = torch.nn.Parameter(drawn(WIDTH, WIDTH, seed=1))
    asking = torch.nn.Parameter(drawn(n_branches, n_heads, width, seed=2))
    unused = torch.nn.Parameter(torch.ones(1))

    def terms(hidden, places, asked):
        parts = hidden.view(-1, n_heads, width)
        return 30 * torch.einsum("thw,bhw->tbh", parts.sin(), asked), parts.square()

    def outcome(means: torch.Tensor) -> torch.Tensor:
        return (means * drawn(n_branches, n_heads, width, seed=3)).sum().sin()

    # What tiles are asked with is itself made of the layer, as in a second layer of latents.
    hidden = tiles @ layer
    scores, values = terms(hidden, None, asking * layer.mean())
    shares = scores.softmax(dim=0)
    expected = torch.einsum("tbh,thw->bhw", shares, values)
    gradient = torch.autograd.grad(outcome(expected), (layer, asking))

    stream = HiddenStream(tile_stream(tiles.numpy(), chunk), lambda v: v @ layer, (layer,))
    read = stream.mean(terms, (unused,), asked=asking * layer.mean(), weighted=True)
    torch.testing.assert_close(read.means, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(read.weights, shares, rtol=1e-10, atol=1e-15)
    outcome(read.means).backward()
    torch.testing.assert_close((layer.grad, asking.grad), gradient, rtol=1e-9, atol=1e-12)
    assert unused.grad is None


def test_weights_that_nobody_asked_for_are_not_kept():
    stream = HiddenStream(tile_stream(np.ones((9, WIDTH))), torch.sin, ())
    read = stream.mean(lambda hidden, places, asked: (hidden[:, :2, None], hidden[:, None]), ())
    assert read.weights is None


@pytest.mark.parametrize("n", [1, 4, 30, 60])
@pytest.mark.parametrize("part", [1, 7, 50])
def test_the_highest_of_parts_are_the_highest_of_all_and_the_first_where_they_tie(n, part):
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 4, N_TILES).astype(np.float32))
    order = sorted(range(N_TILES), key=lambda row: (-scores[row].item(), row))
    assert highest_of_parts(scores.split(part), n).tolist() == sorted(order[:n])


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("places", [None, np.arange(2.0 * N_TILES).reshape(-1, 2)])
def test_tiles_that_are_taken_are_those_that_every_look_sees(noise, places):
    stream = tile_stream(drawn(N_TILES, WIDTH).numpy(), places=places)
    stream = stream.with_noise(noise, torch.Generator().manual_seed(5))
    chunks = [(values.clone(), where) for values, where in stream.chunks()]
    rows = torch.tensor([0, 3, 7, 8, 30, 48, 49])
    taken = stream.taken(rows)
    torch.testing.assert_close(
        taken.values, torch.cat([values for values, _ in chunks])[rows], rtol=0, atol=0
    )
    assert taken.segments.sizes.tolist() == [len(rows)]
    if places is None:
        assert taken.places is None
        assert all(where is None for _, where in chunks)
    else:
        assert taken.places.tolist() == places[rows].tolist()
        assert torch.cat([where for _, where in chunks]).tolist() == places.tolist()


def test_no_two_chunks_of_a_stream_have_the_same_noise():
    stream = tile_stream(np.zeros((3 * CHUNK, WIDTH)))
    noisy = stream.with_noise(1.0, torch.Generator().manual_seed(0))
    first, second, third = (values.clone() for values, _ in noisy.chunks())
    for one, other in ((first, second), (second, third), (first, third)):
        assert np.abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_of_unlike_tiles_that_tie_in_a_unit_the_first_speaks_for_a_stream(sign, chunk):
    # Unit 0 is 3 in the second and last tile.
    tiles = np.array([[0.0, 0.0], [3.0, 1.0], [2.0, 7.0], [3.0, 0.0]])
    layer = torch.nn.Parameter(torch.eye(2, dtype=torch.float64))
    stream = HiddenStream(tile_stream(tiles, chunk), lambda values: values @ layer, (layer,))
    vector = MaxPooling(2).pool_stream(stream, False).vector
    assert vector.tolist() == [[3.0, 7.0]]
    (sign * vector.sum()).backward()
    assert (sign * layer.grad).T.tolist() == [[3.0, 1.0], [2.0, 7.0]]


def test_a_tile_that_is_no_number_makes_the_maximum_none():
    tiles = np.ones((20, 2))
    tiles[11, 0] = np.nan
    stream = HiddenStream(tile_stream(tiles), lambda values: values, ())
    vector = MaxPooling(2).pool_stream(stream, False).vector
    expected = MaxPooling(2)(torch.from_numpy(tiles), Segments(torch.tensor([20])), None).vector
    assert vector.isnan().tolist() == expected.isnan().tolist() == [[True, False]]
