"""Shards against the sections that they were written from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from planted_sections import SYMBOLS, planted_section, with_tiles

from storm_clinic.errors import SectionError
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.neighbourhood import neighbourhoods
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.shard_writer import Embedded, write_shards
from storm_clinic.storm.shards import ShardSet, read_shards
from storm_clinic.storm.spot_batches import Order, SpotReader, measure_scales
from storm_clinic.storm.targets import log1p_cp10k

WIDTH = 4
VOCABULARY = GeneVocabulary(("A", "B", "C", "D"))


def section(name: str, symbols: str, side: int, seed: int) -> Embedded:
    """A square section whose embedding says which spot it is of."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side]
    cells = rng.permutation(np.stack([x, y], axis=-1).reshape(-1, 2))
    counts = rng.poisson(2.0, (len(cells), len(symbols)))
    counts[:2] = 0  # spots without any count
    paired = PairedSection(
        name=name,
        patient=f"patient-{name}",
        technology="st",
        grid="square",
        spot_um=100.0,
        pitch_um=200.0,
        image=None,
        mpp=0.5,
        centres_px=1000 + 400 * cells,
        counts=counts,
        symbols=tuple(symbols),
        spots=tuple(f"{name}{k}" for k in range(len(cells))),
    )
    image = np.stack(
        [np.full(len(cells), seed), np.arange(len(cells)), *rng.normal(size=(2, len(cells)))], 1
    )
    return Embedded(paired, image.astype(np.float32))


SECTIONS = (section("a", "ABC", 8, 1), section("b", "DBX", 5, 2), section("c", "CA", 4, 3))


def write(folder, sections=SECTIONS, **changed) -> ShardSet:
    how = {"encoder": "tiny", "encoder_digest": "0" * 64, "tile_um": 112.0, "spots_per_shard": 30}
    return write_shards(folder, sections, VOCABULARY, **{**how, **changed})


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    return write(tmp_path_factory.mktemp("shards"))


def test_every_spot_is_some_shard_s_own_exactly_once_and_no_shard_is_too_large(shards):
    seen = []
    for place, file in enumerate(shards.files):
        shard = shards.read(place)
        assert shard.n_own == file.n_own <= 30
        seen += [tuple(row) for row in shard.image[: shard.n_own, :2].int().tolist()]
    expected = [(k + 1, row) for k, each in enumerate(SECTIONS) for row in range(len(each.image))]
    assert sorted(seen) == expected
    assert len(shards.files) == 5  # 22 + 21 + 21 of section a, 25, 16
    assert shards.n_spots == 64 + 25 + 16


def test_a_context_out_of_a_shard_is_the_one_of_the_whole_section(shards):
    """Also at the seams, where neighbours are another part's own."""
    reader = SpotReader(shards)
    for place, file in enumerate(shards.files):
        batch = reader.batch(place, np.arange(file.n_own))
        for row in range(file.n_own):
            number, spot = batch.image[batch.spots[row, 12], :2].int().tolist()
            whole = SECTIONS[number - 1]
            paired = whole.section
            rows = neighbourhoods(paired.centres_um, pitch_um=200.0).rows[spot]
            assert torch.equal(batch.valid[row], torch.from_numpy(rows >= 0))
            there = rows[rows >= 0]
            slots = batch.spots[row][batch.valid[row]]
            np.testing.assert_allclose(batch.image[slots], whole.image[there], rtol=1e-3)
            np.testing.assert_allclose(
                batch.xy_um[row][batch.valid[row]], paired.centres_um[there], rtol=1e-6
            )
            panel = VOCABULARY.panel(paired.symbols)
            target = log1p_cp10k(paired.counts[there], panel)
            np.testing.assert_array_equal(batch.expression[slots], target.values)
            np.testing.assert_array_equal(batch.counted[slots], target.library > 0)
            assert (batch.panel[slots].numpy() == panel.mask).all()


def test_an_epoch_shows_every_spot_in_full_batches_and_the_next_in_another_order(shards):
    order = Order(shards, batch=7, seed=3)
    n = order.batches_per_epoch
    assert n == sum(-(-file.n_own // 7) for file in shards.files)
    epochs = [[order.at(epoch * n + k) for k in range(n)] for epoch in range(2)]
    for epoch in epochs:
        assert {len(rows) for _, rows in epoch} == {7}
        shown = {(shard, row) for shard, rows in epoch for row in rows.tolist()}
        assert len(shown) == shards.n_spots
        # Each shard is opened once.
        changes = sum(one[0] != two[0] for one, two in pairwise(epoch))
        assert changes == len(shards.files) - 1
    assert [shard for shard, _ in epochs[0]] != [shard for shard, _ in epochs[1]]


def test_the_order_is_a_function_of_seed_and_position_alone(shards):
    one, two = Order(shards, batch=7, seed=3), Order(shards, batch=7, seed=3)
    for position in (40, 3, 17, 3):  # asked in any order, as after an interruption
        shard, rows = one.at(position)
        assert (shard, rows.tolist()) == (two.at(position)[0], two.at(position)[1].tolist())
    other = Order(shards, batch=7, seed=4)
    assert any(one.at(k)[1].tolist() != other.at(k)[1].tolist() for k in range(5))


def test_a_batch_larger_than_a_shard_shows_its_spots_again(shards):
    _, rows = Order(shards, batch=64, seed=0).at(0)
    assert len(rows) == 64
    assert set(rows.tolist()) == set(range(len(set(rows.tolist()))))


def test_scales_are_those_of_training_spots_with_counts_under_their_panels(shards):
    scales = measure_scales(shards)
    values, known = [], []
    for each in SECTIONS:
        panel = VOCABULARY.panel(each.section.symbols)
        target = log1p_cp10k(each.section.counts, panel)
        values.append(target.values)
        known.append(panel.mask & (target.library > 0)[:, None])
    masked = np.ma.masked_array(np.concatenate(values), ~np.concatenate(known))
    np.testing.assert_allclose(scales.gene_mean, masked.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scales.gene_spread, masked.std(axis=0), rtol=1e-5)
    image = np.concatenate([each.image for each in SECTIONS])
    np.testing.assert_allclose(scales.image_mean, image.mean(axis=0), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(scales.image_spread, image.std(axis=0), rtol=1e-2)


def test_a_gene_that_no_panel_has_is_counted_in_ones(tmp_path):
    scales = measure_scales(write(tmp_path, SECTIONS[:1]))
    assert (scales.gene_mean[3], scales.gene_spread[3]) == (0, 1)


def test_shards_are_the_same_bytes_again_and_are_found_again(shards, tmp_path):
    again = write(tmp_path)
    assert again.digest == shards.digest
    assert read_shards(tmp_path) == again
    for file in again.files:
        one, two = (folder / file.name for folder in (tmp_path, shards.folder))
        assert one.read_bytes() == two.read_bytes()
    other = replace(SECTIONS[2], image=SECTIONS[2].image + 1)
    assert write(tmp_path, (*SECTIONS[:2], other)).digest != shards.digest


def test_what_cannot_be_a_shard_is_refused(tmp_path):
    with pytest.raises(SectionError, match=r"section a: embeddings must be \(64, 4\)"):
        write(tmp_path, [replace(SECTIONS[0], image=SECTIONS[0].image[1:])])
    with pytest.raises(SectionError, match="too large for float16"):
        write(tmp_path, [replace(SECTIONS[0], image=SECTIONS[0].image * 1e6)])
    with pytest.raises(SectionError, match="there are no sections"):
        write(tmp_path, [])
    with pytest.raises(SectionError, match="is no index of shards"):
        read_shards(tmp_path)
    made = write(tmp_path)
    path = tmp_path / made.files[0].name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SectionError, match="is no readable shard"):
        made.read(0)


def test_sections_with_other_tiles_or_sets_than_those_before_are_refused_in_words(tmp_path):
    bare, tiled = planted_section(1), with_tiles(planted_section(2), 8)
    message = r"planted2: has tiles of 8 px and 0 sets .* by Novae .*those before tiles of 0 px"
    with pytest.raises(SectionError, match=message):
        write_shards(
            tmp_path,
            [bare, tiled],
            GeneVocabulary(SYMBOLS),
            encoder="planted",
            encoder_digest="0" * 64,
            tile_um=112.0,
        )
