"""Novae is handed visible spots only; the graph is held against distances counted out."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_novae import fake_novae
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.neighbourhood import neighbourhoods
from storm_clinic.storm.novae import (
    embed_visible,
    load_novae,
    visible_graph,
    within_two_steps,
)
from storm_clinic.storm.paired import PairedSection

PITCH_UM = 100.0


def section(side: int = 5) -> PairedSection:
    y, x = np.mgrid[0:side, 0:side]
    rng = np.random.default_rng(0)
    return PairedSection(
        name="s",
        patient="p",
        technology="st",
        grid="square",
        spot_um=55.0,
        pitch_um=PITCH_UM,
        image=None,
        mpp=0.5,
        centres_px=np.stack([x, y], axis=-1).reshape(-1, 2) * 200.0,
        counts=rng.poisson(3.0, (side * side, 4)),
        symbols=("A", "B", "C", "D"),
        spots=tuple(f"s{k}" for k in range(side * side)),
    )


def test_edges_join_exactly_the_visible_spots_that_are_near():
    paired = section()
    visible = np.random.default_rng(1).random(25) > 0.4
    graph = visible_graph(paired.centres_um, visible, reach_um=125.0).toarray()
    shown = paired.centres_um[visible]
    far = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
    np.testing.assert_allclose(graph, np.where((far > 0) & (far < 125), far, 0))


def test_no_path_leads_through_a_masked_spot():
    """A masked column cuts a section in two, whatever the number of steps."""
    paired = section()
    visible = np.arange(25) % 5 != 2
    graph = visible_graph(paired.centres_um, visible, reach_um=125.0)
    n_parts, part = sparse.csgraph.connected_components(graph)
    assert n_parts == 2
    column = (np.arange(25) % 5)[visible]
    assert set(part[column < 2]) != set(part[column > 2])


def test_two_steps_are_what_a_walk_over_visible_spots_finds():
    paired = section(side=7)
    visible = np.random.default_rng(2).random(49) > 0.35
    one, two = within_two_steps(visible_graph(paired.centres_um, visible, reach_um=125.0))
    shown = paired.centres_um[visible]
    far = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
    near = [set(np.flatnonzero((row > 0) & (row < 125))) for row in far]
    for spot, neighbours in enumerate(near):
        after = set().union(*(near[other] for other in neighbours)) - neighbours - {spot}
        assert set(one[[spot]].indices) == neighbours
        assert set(two[[spot]].indices) == after
    assert two.nnz > 0


@pytest.fixture
def novae(monkeypatch):
    pytest.importorskip("anndata")
    monkeypatch.setitem(sys.modules, "novae", fake_novae())


@pytest.mark.usefixtures("novae")
def test_neither_counts_nor_place_nor_existence_of_a_masked_spot_reaches_an_embedding():
    paired = section()
    visible = np.random.default_rng(1).random(25) > 0.4
    found = embed_visible(paired, visible, load_novae())
    assert np.isnan(found[~visible]).all()
    assert np.isfinite(found).any()
    counts, centres = paired.counts.toarray(), paired.centres_px.copy()
    counts[~visible] = 1000
    centres[~visible] += 7.0
    changed = embed_visible(replace(paired, counts=counts), visible, load_novae())
    moved = embed_visible(replace(paired, centres_px=centres), visible, load_novae())
    gone = embed_visible(
        paired.subset(visible, why="never there"), np.ones(visible.sum(), bool), load_novae()
    )
    for again in (changed, moved):
        np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(gone, found[visible])
    # Were they visible, they would: so the stand-in could have shown a leak.
    shown, loud = np.ones(25, bool), replace(paired, counts=counts)
    assert (
        (
            np.abs(
                embed_visible(loud, shown, load_novae())
                - embed_visible(paired, shown, load_novae())
            )
            > 0.1
        )
        .all(1)
        .any()
    )


@pytest.mark.usefixtures("novae")
def test_novae_is_shown_logs_at_the_median_depth_of_what_is_visible():
    """The middle of a fully visible section sums what lies within two steps."""
    # Novae itself takes counts below 10 for logs.
    paired = replace(section(), counts=np.minimum(section().counts.toarray(), 9))
    counts = paired.counts.toarray().astype(float)
    depth = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(counts / np.maximum(depth, 1) * np.median(depth[depth > 0]))
    steps = np.abs(np.stack([np.arange(25) % 5 - 2, np.arange(25) // 5 - 2])).sum(axis=0)
    found = embed_visible(paired, np.ones(25, dtype=bool), load_novae())
    np.testing.assert_allclose(found[12], logs[steps <= 2].sum(axis=0), rtol=1e-5)


@pytest.mark.usefixtures("novae")
def test_a_spot_that_novae_cannot_embed_has_none_rather_than_zeros():
    paired = section()
    visible = np.zeros(25, dtype=bool)
    visible[[0, 1, 2, 20, 24]] = True  # three in a row, two alone; of the row the ends are embedded
    found = embed_visible(paired, visible, load_novae())
    assert np.flatnonzero(np.isfinite(found).all(axis=1)).tolist() == [0, 2]
    visible[2] = False
    with pytest.raises(SectionError, match="Mask fewer spots"):
        embed_visible(paired, visible, load_novae())


@pytest.mark.usefixtures("novae")
def test_columns_of_one_gene_are_one_gene_to_novae():
    paired = section()
    twice = replace(paired, symbols=("A", "B", "A", "D"))
    assert embed_visible(twice, np.ones(25, dtype=bool), load_novae()).shape == (25, 3)


@pytest.mark.usefixtures("novae")
def test_what_novae_refuses_is_said_with_the_section(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Too few genes (4) are known")

    monkeypatch.setattr(sys.modules["novae"], "spatial_neighbors", refuse)
    with pytest.raises(SectionError, match=r"section s: Novae refuses .*Too few genes"):
        embed_visible(section(), np.ones(25, dtype=bool), load_novae())
    with pytest.raises(SectionError, match="section s: no spot is visible"):
        embed_visible(section(), np.zeros(25, dtype=bool), load_novae())


@pytest.mark.usefixtures("novae")
def test_novae_s_embeddings_enter_the_network_and_masked_counts_reach_none_of_its_outputs():
    paired = section(side=7)
    visible = np.random.default_rng(4).random(49) > 0.4
    config = StormConfig(
        width=16,
        n_layers=2,
        n_heads=2,
        image_width=5,
        n_genes=4,
        pitch_um=PITCH_UM,
        gene_encoder="novae",
        gene_width=4,
    )
    torch.manual_seed(0)
    model = StormModel(config).eval()
    tokens = model.novae_tokens
    with pytest.raises(SectionError, match="reads expression as Novae embeds it"):
        model.embed_expression(torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool))
    image, wanted = torch.randn(49, 5), torch.arange(49)
    around = neighbourhoods(paired.centres_um, pitch_um=PITCH_UM)
    rows = torch.as_tensor(around.rows).clamp(min=0)
    masked = ~torch.from_numpy(visible)[rows]

    def outputs(shown: PairedSection) -> torch.Tensor:
        embedded = torch.from_numpy(embed_visible(shown, visible, load_novae()))
        expression, has_one = tokens(embedded), embedded.isfinite().all(dim=1)
        assert expression.isfinite().all()
        xy_um = torch.tensor(shown.centres_um, dtype=torch.float32)
        contexts = Contexts.gather(
            around, wanted, xy_um=xy_um, image=model.embed_image(image), expression=expression
        )
        present = has_one[rows] | masked
        contexts = replace(contexts, expression_masked=masked, expression_present=present)
        found = model(contexts, embedded=True)
        return torch.cat([found.spot, found.joint, found.context], dim=1)

    first = outputs(paired)
    first.square().sum().backward()
    for weight in tokens.parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
    assert tokens.out.weight.grad.abs().max() > 0
    counts = paired.counts.toarray()
    counts[~visible] += 50
    torch.testing.assert_close(outputs(replace(paired, counts=counts)), first, rtol=0, atol=0)
    counts[visible, 0] += 50
    assert (outputs(replace(paired, counts=counts)) - first).abs().max() > 1e-3


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "novae", None)
    with pytest.raises(SectionError, match="pip install novae"):
        load_novae()
    with pytest.raises(SectionError, match="no spot is visible"):
        visible_graph(section().centres_um, np.zeros(25, dtype=bool), reach_um=125.0)


def test_the_package_itself_with_untrained_weights_reads_no_masked_spot(tmp_path):
    """Through its own loading of a folder; its published weights were never here."""
    novae = pytest.importorskip("novae", reason="pip install novae, which is heavy, to run this")
    import anndata

    rng, n = np.random.default_rng(0), 14 * 14
    paired = replace(
        section(side=14),
        counts=rng.poisson(rng.gamma(2.0, 2.0, 120), (n, 120)),
        symbols=tuple(f"G{k}" for k in range(120)),
    )
    table = anndata.AnnData(np.log1p(paired.counts.toarray()).astype(np.float32))
    table.var_names, table.obsm["spatial"] = list(paired.symbols), paired.centres_um
    novae.spatial_neighbors(table, radius=125.0, delaunay=False)
    small = {"hidden_size": 16, "num_layers": 2, "heads": 2, "embedding_size": 20}
    novae.Novae(table, num_prototypes=16, **small).save_pretrained(tmp_path)
    visible = rng.random(n) < 0.5
    loaded = load_novae(str(tmp_path))
    found = embed_visible(paired, visible, loaded)
    assert np.isfinite(found[visible]).all(axis=1).mean() > 0.7
    counts = paired.counts.toarray()
    counts[~visible] += 300
    changed = embed_visible(replace(paired, counts=counts), visible, loaded)
    np.testing.assert_array_equal(changed, found)
    counts[visible] += rng.poisson(5.0, (visible.sum(), 120))
    seen = embed_visible(replace(paired, counts=counts), visible, loaded)
    assert np.nanmax(np.abs(seen - found)) > 1e-3
    assert load_novae(str(tmp_path)).digest == loaded.digest
    np.testing.assert_array_equal(embed_visible(paired, visible, loaded), found)
