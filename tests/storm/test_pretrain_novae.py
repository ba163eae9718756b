"""Pretraining on expression as a frozen Novae embeds it, a stand-in for it in these tests."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_novae import fake_novae
from planted_sections import N_GENES, SYMBOLS, network, planted_section, planted_shards

from storm_clinic.errors import TrainingError
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.masking import Draws, MaskingMix, mask
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.novae import embed_draws, load_novae
from storm_clinic.storm.optimisation import Optimisation
from storm_clinic.storm.pretrain import PretrainPlan, embedded_contexts, pretrain, shown_by_novae
from storm_clinic.storm.processes import Processes
from storm_clinic.storm.reconstruction import reconstruct
from storm_clinic.storm.shard_writer import write_shards
from storm_clinic.storm.shards import ShardSet
from storm_clinic.storm.spot_batches import SpotReader

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = network(gene_encoder="novae", gene_width=N_GENES)
DRAWS = {"n_draws": 3, "visible_share": 0.4}
PLAN = PretrainPlan(
    optimisation=Optimisation(learning_rate=0.01, n_steps=4, warm_up=1),
    batch=16,
    log_every=2,
    keep_every=2,
)


@pytest.fixture(autouse=True)
def _novae(monkeypatch):
    pytest.importorskip("anndata")
    monkeypatch.setitem(sys.modules, "novae", fake_novae())


@pytest.fixture
def shards(tmp_path) -> ShardSet:
    """Of two sections, cut across by shards of 60 spots."""
    sections = [planted_section(seed) for seed in (1, 2)]
    return write_shards(
        tmp_path / "shards",
        [
            replace(one, novae=embed_draws(one.section, load_novae(), **DRAWS, seed=7))
            for one in sections
        ],
        GeneVocabulary(SYMBOLS),
        encoder="planted",
        encoder_digest="0" * 64,
        tile_um=112.0,
        side=3,
        spots_per_shard=60,
    )


def test_a_set_of_visible_spots_is_a_matter_of_seed_section_and_number():
    section = planted_section(1).section
    made = embed_draws(section, load_novae(), **DRAWS, seed=7)
    again = embed_draws(section, load_novae(), **DRAWS, seed=7)
    np.testing.assert_array_equal(made.visible, again.visible)
    np.testing.assert_array_equal(made.novae, again.novae)
    other = embed_draws(section, load_novae(), **DRAWS, seed=8)
    assert (made.visible != other.visible).any(axis=1).all()
    assert (made.visible[0] != made.visible[1]).any()
    assert 0.2 < made.visible.mean() < 0.6
    counts = section.counts.toarray()
    counts[:40] = 0
    empty = embed_draws(replace(section, counts=counts), load_novae(), **DRAWS, seed=7)
    assert not empty.visible[:, :40].any()


def test_shards_hold_each_spot_s_embeddings_of_each_set(shards):
    expected = {
        name: embed_draws(planted_section(seed).section, load_novae(), **DRAWS, seed=7)
        for seed, name in ((1, "planted1"), (2, "planted2"))
    }
    seen = 0
    for place, file in enumerate(shards.files):
        shard = shards.read(place)
        for row in range(len(shard.image)):
            name = file.sections[int(shard.section[row])]
            centres = planted_section(int(name[-1])).section.centres_um
            (spot,) = np.flatnonzero((centres == shard.xy_um[row].numpy()).all(axis=1))
            wanted = expected[name]
            np.testing.assert_array_equal(shard.visible[:, row], wanted.visible[:, spot])
            np.testing.assert_allclose(shard.novae[:, row], wanted.novae[:, spot], rtol=1e-3)
            seen += 1
    assert seen > 162  # neighbours that were brought along too
    assert (shards.novae_draws, shards.novae_width) == (3, N_GENES)


def test_just_the_visible_spots_are_shown_and_just_the_masked_ones_are_asked_for(shards):
    reader = SpotReader(shards)
    batch = reader.with_novae(0, reader.batch(0, np.arange(30)), 1)
    torch.manual_seed(0)
    model = StormModel(CONFIG)
    contexts = embedded_contexts(batch, model, None)
    draws = Draws.draw(30, shards.n_slots, torch.Generator().manual_seed(0))
    both = MaskingMix(both=1.0, image_alone=0.0, expression_alone=0.0)
    masked = mask(contexts, draws, both, shown=shown_by_novae(batch, model))
    visible = batch.visible[batch.spots] & batch.valid
    embedded = batch.novae.isfinite().all(dim=1)[batch.spots] & batch.valid
    counted = batch.counted[batch.spots] & batch.valid
    shown = masked.contexts.present("expression") & ~masked.contexts.masked("expression")
    assert torch.equal(shown, visible & embedded)
    assert torch.equal(masked.expression, counted & ~visible)
    # A visible spot that Novae does not embed is in its neighbours' embeddings: never asked for.
    assert bool((visible & ~embedded).any())
    # H&E alone shows no expression, and foretells that of every spot that was measured.
    alone = MaskingMix(both=0.0, image_alone=1.0, expression_alone=0.0, whole_image=1.0)
    foretold = mask(contexts, draws, alone, shown=shown_by_novae(batch, model))
    assert not foretold.contexts.present("expression").any()
    assert torch.equal(foretold.virtual, counted)


def test_counts_of_masked_spots_reach_no_output_though_they_are_what_is_asked_for(tmp_path):
    planted = planted_section(1)
    hidden = ~embed_draws(planted.section, load_novae(), **DRAWS, seed=7).visible[0]
    counts = planted.section.counts.toarray()
    counts[hidden] = counts[hidden][:, ::-1] + 1
    changed = replace(planted, section=replace(planted.section, counts=counts))
    torch.manual_seed(0)
    model = StormModel(CONFIG).eval()
    found = []
    for number, one in enumerate((planted, changed)):
        novae = embed_draws(one.section, load_novae(), **DRAWS, seed=7)
        written = write_shards(
            tmp_path / str(number),
            [replace(one, novae=novae)],
            GeneVocabulary(SYMBOLS),
            encoder="planted",
            encoder_digest="0" * 64,
            tile_um=112.0,
            side=3,
        )
        reader = SpotReader(written)
        batch = reader.with_novae(0, reader.batch(0, np.arange(81)), 0)
        draws = Draws.draw(81, 9, torch.Generator().manual_seed(0))
        masked = mask(
            embedded_contexts(batch, model, None),
            draws,
            MaskingMix(),
            shown=shown_by_novae(batch, model),
        )
        with torch.no_grad():
            encoded = model(masked.contexts, embedded=True)
        asked = batch.expression[batch.spots[masked.expression]]
        found.append((encoded.tokens["image"], encoded.tokens["expression"], asked))
    (image, expression, asked), (image_then, expression_then, asked_then) = found
    assert torch.equal(image, image_then)
    assert torch.equal(expression, expression_then)
    assert not torch.allclose(asked, asked_then)


def test_a_training_by_novae_s_embeddings_goes_on_bit_for_bit_and_learns(shards, tmp_path):
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 3:
            raise Killed

    made = pretrain(CONFIG, shards, PLAN, ALONE)
    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        pretrain(CONFIG, shards, PLAN, ALONE, state=state, on_step=kill)
    again = pretrain(CONFIG, shards, PLAN, ALONE, state=state)
    assert again.history == made.history
    for name, weight in made.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
    longer = replace(
        PLAN,
        optimisation=Optimisation(learning_rate=0.01, n_steps=120, warm_up=10),
        log_every=10,
    )
    curve = pretrain(CONFIG, shards, longer, ALONE).history
    assert curve[-1]["expression"] < 0.7 * curve[0]["expression"]


def test_a_reconstruction_says_nothing_of_spots_that_could_not_be_masked(shards):
    made = pretrain(CONFIG, shards, PLAN, ALONE)
    found = reconstruct(made, shards)
    visible = shards.read(0).visible[0, : len(found.xy_um)].numpy()
    assert np.isnan(found.filled_in[visible]).all()
    assert np.isfinite(found.filled_in[~visible]).all()
    assert np.isfinite(found.from_image).all()


def test_shards_and_network_must_agree_on_novae(shards, tmp_path):
    with pytest.raises(TrainingError, match=r"by Novae of 6 numbers .* gene encoder 'mlp'"):
        pretrain(network(), shards, PLAN, ALONE)
    bare = planted_shards(Path(tmp_path / "bare"))
    with pytest.raises(TrainingError, match=r"by Novae of 0 numbers .* gene encoder 'novae' of 6"):
        pretrain(CONFIG, bare, PLAN, ALONE)


def test_the_digest_is_of_the_weights():
    assert load_novae("one").digest == load_novae("two").digest
