"""Novae is handed visible spots only; the graph is held against distances counted out."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.novae import embed_visible, visible_graph
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


def fake_novae() -> SimpleNamespace:
    """Sums counts over two steps of the graph that it is given, as Novae reads two."""

    class Novae:
        @staticmethod
        def from_pretrained(name: str) -> Novae:
            return Novae()

        def compute_representations(self, table, *, zero_shot: bool) -> None:
            near = (table.obsp["spatial_distances"] > 0).astype(float) + sparse.eye(table.n_obs)
            table.obsm["novae_latent"] = (near @ near @ table.X).toarray()

    def spatial_neighbors(table, radius: float) -> None:
        table.obsp["spatial_distances"] = sparse.csr_matrix(np.ones((table.n_obs, table.n_obs)))

    return SimpleNamespace(Novae=Novae, spatial_neighbors=spatial_neighbors)


def test_a_masked_spot_s_counts_reach_no_embedding(monkeypatch):
    pytest.importorskip("anndata")
    monkeypatch.setitem(sys.modules, "novae", fake_novae())
    paired = section()
    visible = np.random.default_rng(1).random(25) > 0.4
    found = embed_visible(paired, visible)
    assert np.isnan(found[~visible]).all()
    changed = paired.counts.toarray()
    changed[~visible] = 1000
    again = embed_visible(replace(paired, counts=changed), visible)
    np.testing.assert_array_equal(again[visible], found[visible])
    # Were it visible, it would: its neighbours' embeddings hold it.
    assert np.nanmax(embed_visible(replace(paired, counts=changed), np.ones(25, bool))) > 999
    # The middle of a fully visible section sums itself and what lies two steps around.
    whole = embed_visible(paired, np.ones(25, dtype=bool))
    steps = np.abs(np.stack([np.arange(25) % 5 - 2, np.arange(25) // 5 - 2])).sum(axis=0)
    paths = np.select([steps == 0, steps == 1], [5, 2], 0)
    straight = (steps == 2) & ((np.arange(25) % 5 == 2) | (np.arange(25) // 5 == 2))
    paths = paths + straight + 2 * ((steps == 2) & ~straight)
    np.testing.assert_allclose(whole[12], paths @ paired.counts.toarray())


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "novae", None)
    with pytest.raises(SectionError, match="pip install novae"):
        embed_visible(section(), np.ones(25, dtype=bool))
    with pytest.raises(SectionError, match="no spot is visible"):
        visible_graph(section().centres_um, np.zeros(25, dtype=bool), reach_um=125.0)
