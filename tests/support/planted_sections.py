"""Sections whose image embeddings and counts come from one hidden map, as shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.shard_writer import Embedded, write_shards
from storm_clinic.storm.shards import ShardSet

N_GENES, IMAGE_WIDTH = 6, 8
SYMBOLS = tuple(f"G{k}" for k in range(N_GENES))


def planted_section(seed: int, *, side: int = 9) -> Embedded:
    """A smooth hidden map; embeddings are linear in it, and genes rise or fall with it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side]
    phase = rng.uniform(0, 2 * np.pi, 2)
    hidden = np.sin(x / 1.5 + phase[0]) + np.cos(y / 1.5 + phase[1])
    hidden = hidden.reshape(-1, 1)
    directions = np.random.default_rng(99).normal(size=(1, IMAGE_WIDTH))
    image = 5 + hidden @ directions + 0.1 * rng.normal(size=(side * side, IMAGE_WIDTH))
    slopes = np.linspace(-1.2, 1.2, N_GENES)
    section = PairedSection(
        name=f"planted{seed}",
        patient=f"patient{seed}",
        technology="st",
        grid="square",
        spot_um=100.0,
        pitch_um=200.0,
        image=None,
        mpp=0.5,
        centres_px=np.stack([x, y], axis=-1).reshape(-1, 2) * 400.0,
        counts=rng.poisson(40 * np.exp(hidden * slopes)),
        symbols=SYMBOLS,
        spots=tuple(f"s{k}" for k in range(side * side)),
    )
    return Embedded(section, image.astype(np.float32))


def with_tiles(embedded: Embedded, tile_px: int) -> Embedded:
    """With tiles that the hidden map makes lighter or darker, as it makes the first gene rarer."""
    library = embedded.section.counts.sum(axis=1)
    share = np.asarray(embedded.section.counts[:, [0]].todense()).reshape(-1) / library
    noise = np.random.default_rng(5).integers(0, 40, (len(share), tile_px, tile_px, 3))
    pixels = (215 * share / share.max()).astype(int)[:, None, None, None] + noise

    def tiles(rows: np.ndarray) -> np.ndarray:
        return pixels[rows].astype(np.uint8)

    return replace(embedded, tiles=tiles)


def planted_shards(
    folder: Path, *, tile_px: int = 0, image_width: int = IMAGE_WIDTH, blind: bool = False
) -> ShardSet:
    """Blind: all spots have one embedding, whatever lies under them."""
    sections = [planted_section(seed) for seed in (1, 2, 3)]
    if tile_px:
        sections = [with_tiles(section, tile_px) for section in sections]
    for place, section in enumerate(sections):
        wide = np.resize(section.image.T, (image_width, len(section.image))).T
        sections[place] = replace(section, image=np.ones_like(wide) if blind else wide)
    return write_shards(
        folder,
        sections,
        GeneVocabulary(SYMBOLS),
        encoder="planted",
        encoder_digest="0" * 64,
        tile_um=112.0,
        side=3,
        spots_per_shard=162,
    )


def network(**changed: object) -> StormConfig:
    return StormConfig(
        **{
            "width": 16,
            "n_layers": 2,
            "n_heads": 2,
            "image_width": IMAGE_WIDTH,
            "n_genes": N_GENES,
            "pitch_um": 200.0,
            "gene_hidden": 16,
            "gene_width": 8,
            **changed,
        }
    )
