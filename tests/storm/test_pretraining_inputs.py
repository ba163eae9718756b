"""What a pretraining is asked and given: its YAML, its sections, its genes, kept embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storm_clinic.encoders.hub import load_encoder
from storm_clinic.errors import InputError, SectionError, TrainingError
from storm_clinic.files import Workspace
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.pretraining_file import read_pretraining
from storm_clinic.storm.section_sources import Her2stSource, read_sources
from storm_clinic.storm.spot_cache import cached_embeddings
from storm_clinic.storm.spot_images import embed_spots
from storm_clinic.storm.variable_genes import most_variable_genes

SHIPPED = Path(__file__).parents[2] / "pipelines" / "storm_pretrain_her2st.yaml"


def section(name: str, counts: np.ndarray, symbols: str, image: Path | None = None):
    n = len(counts)
    return PairedSection(
        name=name,
        patient="p",
        technology="st",
        grid="square",
        spot_um=20.0,
        pitch_um=100.0,
        image=image,
        mpp=0.5,
        centres_px=np.stack([100 + 200 * np.arange(n), np.full(n, 60)], axis=1),
        counts=counts,
        symbols=tuple(symbols),
        spots=tuple(f"{name}{k}" for k in range(n)),
    )


def test_the_shipped_file_is_read_and_makes_the_tiny_network(monkeypatch):
    asked = read_pretraining(SHIPPED)
    config = asked.config(image_width=1280, n_genes=1000)
    assert (config.width, config.n_layers, config.n_heads) == (128, 3, 4)
    assert config.dropout == asked.network.dropout > 0
    assert asked.plan.optimisation.n_steps == asked.updates.n_steps
    assert asked.plan.masking.visible == 5


def test_the_shipped_file_that_trains_the_encoder_is_read_and_leaves_images_as_they_are():
    asked = read_pretraining(SHIPPED.with_name("storm_pretrain_encoder.yaml"))
    assert asked.train_encoder is not None
    assert asked.train_encoder.layer_decay == 0.7
    assert asked.config(image_width=768, n_genes=1000).width == 768
    assert asked.encoder.weights_path(Workspace()) is None


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("ema: 0.99", "emu: 0.99", InputError, r"line \d+, updates.emu: unknown key.*'ema'"),
        ("both: 0.5", "both: 0.6", TrainingError, "add up to 1"),
        ("layout: her2st", "layout: her3st", InputError, "her3st"),
        ("warm_up: 60", "warm_up: 600", TrainingError, "warm_up must lie below n_steps"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, old, new, kind, message):
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(kind, match=message):
        read_pretraining(path)


def test_a_variable_that_is_not_set_or_leads_nowhere_is_named(monkeypatch, tmp_path):
    source = Her2stSource(layout="her2st", root="${NOWHERE_SET}/her2st")
    with pytest.raises(InputError, match="NOWHERE_SET is not set"):
        next(read_sources([source], Workspace(tmp_path)))
    monkeypatch.setenv("NOWHERE_SET", "data")
    with pytest.raises(InputError, match="is no folder"):
        next(read_sources([source], Workspace(tmp_path)))


def test_genes_that_vary_within_sections_are_chosen_not_those_that_differ_between_them():
    """B differs tenfold between sections, but is constant in each; A alternates in both."""
    alternating = np.array([[1, 50, 49], [49, 50, 1]] * 4)
    shifted = alternating * [1, 10, 1]
    one, two = section("one", alternating, "ABC"), section("two", shifted, "ABC")
    assert most_variable_genes([one, two], 2).symbols == ("A", "C")
    assert most_variable_genes([two, one], 3).symbols == ("A", "B", "C")


def test_a_gene_that_few_panels_have_is_not_chosen():
    wild = np.array([[1, 100], [100, 1]] * 4)
    few = [section(f"s{k}", wild, "AB") for k in range(3)] + [section("x", wild, "AZ")]
    assert most_variable_genes(few, 5).symbols == ("A", "B")
    with pytest.raises(SectionError, match="no sections"):
        most_variable_genes([], 5)


def test_spots_are_embedded_once_for_the_same_pixels_places_and_weights(tmp_path, tiny_encoder):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    card, weights = tiny_encoder
    encoder = load_encoder(card, weights=weights, device="cpu")
    paired = section("s", np.ones((3, 2), dtype=int), "AB", tmp_path / "s.png")
    folder = tmp_path / "spots"

    def embed(given: PairedSection = paired, tile_um: float = 32.0) -> np.ndarray:
        return cached_embeddings(given, encoder, tile_um=tile_um, folder=folder)

    first = embed()
    np.testing.assert_array_equal(first, embed_spots(paired, encoder, tile_um=32.0))
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(embed(), first)
    assert kept.stat().st_mtime_ns == before
    # Whatever the embedding depends on gives another file.
    assert not np.array_equal(embed(tile_um=40.0), first)
    moved = embed(replace(paired, centres_px=paired.centres_px + 7))
    assert not np.array_equal(moved, first)
    Image.fromarray(255 - pixels).save(tmp_path / "s.png")
    assert not np.array_equal(embed(), first)
    assert len(list(folder.iterdir())) == 4
    with pytest.raises(SectionError, match="has no image"):
        embed(replace(paired, image=None))
