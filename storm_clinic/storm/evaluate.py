"""How well expression is imputed on sections that a network has not seen, after HEST-1k's protocol.

One section, or all of one patient's, is left out; genes are chosen, scales measured and networks
taught on the others alone; then every chosen gene of every left-out spot is imputed from H&E.

References
----------
Jaume et al., HEST-1k, NeurIPS 2024 (the protocol: most variable genes, Pearson r a gene).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from storm_clinic.errors import SectionError
from storm_clinic.storm.checkpoint import Checkpoint
from storm_clinic.storm.config import GeneEncoding, Size, StormConfig
from storm_clinic.storm.decoders import LossWeights
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.image_scale import principal_axes, scale_slide
from storm_clinic.storm.impute import FinetunePlan, finetune, impute
from storm_clinic.storm.masking import MaskingMix
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.neighbourhood import Side
from storm_clinic.storm.optimisation import Optimisation
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.pretrain import PretrainPlan, pretrain
from storm_clinic.storm.processes import Processes
from storm_clinic.storm.shard_writer import Embedded, write_shards
from storm_clinic.storm.shards import read_shards
from storm_clinic.storm.starting_checkpoint import take_over
from storm_clinic.storm.taught_section import TaughtSection
from storm_clinic.storm.variable_genes import most_variable_genes

Unit = Literal["section", "patient"]


@dataclass(frozen=True)
class Looks:
    """Embeddings by a kind of encoder of tiles as they are, and of ``n_looks - 1`` other looks."""

    encoder: Literal["plain", "random"]
    n_looks: int
    stain: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and how it is taught: one row of the table.

    Attributes
    ----------
    name : str
        What the row is called.
    size, experts, alibi, dropout, image_axes, readout, gene_encoder, gene_width
        See `StormConfig`.
    side : 1, 3 or 5
        Points along an edge of a context.
    n_genes : int
        How many of the genes that vary most are taught, the evaluated ones among them.
    pretrain_steps : int
        Updates of masked modelling on the training sections before fine-tuning; 0 for none.
    masking : MaskingMix
    losses : LossWeights
        Of masked modelling.
    encoder : "plain" or "random"
        The catalogue's weights, or the same network with random ones.
    n_looks : int
        In how many ways each tile is shown in fine-tuning, one a batch, as it is among them; see
        `tile_views`. Inference shows it as it is.
    stain : float
        By what share amounts of dyes differ in other looks than the first.
    start : str or None
        A checkpoint's folder or name, from whose weights fine-tuning starts; None: new weights.
    finetune : FinetunePlan
        Its seed is replaced by the evaluation's.
    """

    name: str
    size: Size = "tiny"
    experts: Literal["modality", "one"] = "modality"
    alibi: bool = True
    dropout: float = 0.2
    image_axes: int = 128
    readout: float = StormConfig.readout
    gene_encoder: GeneEncoding = "mlp"
    gene_width: int = StormConfig.gene_width
    side: Side = 5
    n_genes: int = 200
    pretrain_steps: int = 0
    masking: MaskingMix = field(default_factory=MaskingMix)
    losses: LossWeights = field(default_factory=LossWeights)
    encoder: Literal["plain", "random"] = "plain"
    n_looks: int = 1
    stain: float = 0.0
    start: str | None = None
    finetune: FinetunePlan = field(default_factory=FinetunePlan)

    @property
    def looks(self) -> Looks:
        """Which embeddings it wants beside those of tiles as they are."""
        return Looks(self.encoder, self.n_looks, self.stain)

    def config(self, *, image_width: int, n_genes: int, pitch_um: float) -> StormConfig:
        """The network's shape, once data have said what goes in."""
        return StormConfig.of_size(
            self.size,
            image_width=image_width,
            n_genes=n_genes,
            pitch_um=pitch_um,
            experts=self.experts,
            alibi=self.alibi,
            dropout=self.dropout,
            image_axes=self.image_axes,
            readout=self.readout,
            gene_encoder=self.gene_encoder,
            gene_width=self.gene_width,
        )


@dataclass(frozen=True, eq=False)
class Seen:
    """A section, and embeddings of its points.

    Attributes
    ----------
    section : PairedSection
    images : mapping of kind of encoder to float32 array, shape (n_points, width)
        Of tiles as they are.
    others : mapping of Looks to float32 array, shape (n_looks - 1, n_points, width)
        Of the other looks; empty where no recipe wants any.
    """

    section: PairedSection
    images: Mapping[str, NDArray[np.float32]]
    others: Mapping[Looks, NDArray[np.float32]] = field(default_factory=dict)

    def shown(self, looks: Looks) -> NDArray[np.float32]:
        """As it is first, then all other looks: (n_looks, n_points, width)."""
        plain = self.images[looks.encoder][None]
        return plain if looks.n_looks == 1 else np.concatenate([plain, self.others[looks]])


def folds(sections: Sequence[PairedSection], unit: Unit) -> list[tuple[str, ...]]:
    """Names of the sections that are left out together, in the order given.

    Raises
    ------
    SectionError
        If nothing would be left to learn from.
    """
    groups: dict[str, list[str]] = {}
    for section in sections:
        key = section.patient if unit == "patient" else section.name
        groups.setdefault(key, []).append(section.name)
    if len(groups) < 2:
        raise SectionError(
            f"all {len(sections)} sections are of one {unit}: none can be left out",
            where="evaluation of STORM",
            fix="Give more, or leave out sections and say that patients were not.",
        )
    return [tuple(names) for names in groups.values()]


def taught_network(
    sections: Sequence[Seen],
    recipe: Recipe,
    *,
    seed: int,
    pitch_um: float,
    start: Checkpoint | None = None,
) -> tuple[StormModel, GeneVocabulary]:
    """A network taught on some sections by a recipe, and the genes that it knows.

    Parameters
    ----------
    sections : sequence of Seen
        Training sections only; everything that is chosen or measured comes from them.
    recipe : Recipe
        What to make.
    seed : int
        Of weights, order and dropout.
    pitch_um : float
        What counts as one step of distance.
    start : Checkpoint, optional
        What the recipe's ``start`` names: weights and image axes come from it, see `take_over`.
    """
    vocabulary = most_variable_genes((one.section for one in sections), recipe.n_genes)
    images = [one.images[recipe.encoder] for one in sections]
    config = recipe.config(
        image_width=images[0].shape[1], n_genes=len(vocabulary), pitch_um=pitch_um
    )
    axes = None
    if recipe.image_axes and start is None:
        scaled = (scale_slide(image) for image in images)
        axes = torch.from_numpy(principal_axes(scaled, recipe.image_axes))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = StormModel(config)
    if start is not None:
        take_over(start, model, vocabulary)
    if axes is not None:
        model.set_image_axes(axes)
    if recipe.pretrain_steps:
        model = _pretrained(sections, recipe, config, vocabulary, seed=seed, axes=axes)
    taught = [taught_section(one, recipe, vocabulary) for one in sections]
    finetune(model, taught, replace(recipe.finetune, seed=seed))
    return model, vocabulary


def taught_section(one: Seen, recipe: Recipe, vocabulary: GeneVocabulary) -> TaughtSection:
    """A section as a recipe's network sees it."""
    return TaughtSection.of(
        one.section,
        one.shown(recipe.looks),
        vocabulary,
        side=recipe.side,
        scaled=bool(recipe.image_axes),
    )


def hold_out(
    sections: Sequence[Seen],
    left_out: Sequence[str],
    recipe: Recipe,
    *,
    seed: int,
    n_genes: int,
    pitch_um: float,
    start: Checkpoint | None = None,
) -> list[HeldOut]:
    """Teach on all other sections, impute on those left out.

    Parameters
    ----------
    sections : sequence of Seen
        All of them.
    left_out : sequence of str
        Names; see `folds`.
    recipe, seed, pitch_um, start
        See `taught_network`.
    n_genes : int
        How many of the training sections' most variable genes are looked at.
    """
    training = [one for one in sections if one.section.name not in left_out]
    model, vocabulary = taught_network(training, recipe, seed=seed, pitch_um=pitch_um, start=start)
    chosen = most_variable_genes((one.section for one in training), n_genes).symbols
    columns = [vocabulary.symbols.index(symbol) for symbol in chosen]
    found = []
    for one in sections:
        if one.section.name not in left_out:
            continue
        section = taught_section(one, replace(recipe, n_looks=1), vocabulary)
        measured = np.where(section.panel, section.target, np.nan)[:, columns]
        found.append(
            HeldOut(
                recipe.name,
                section.name,
                section.patient,
                seed,
                chosen,
                measured.astype(np.float32),
                impute(model, section)[:, columns],
            )
        )
    return found


def _pretrained(
    sections: Sequence[Seen],
    recipe: Recipe,
    config: StormConfig,
    vocabulary: GeneVocabulary,
    *,
    seed: int,
    axes: torch.Tensor | None,
) -> StormModel:
    """Masked modelling on the training sections alone."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        write_shards(
            folder,
            (Embedded(one.section, _shown(one, recipe)) for one in sections),
            vocabulary,
            encoder=recipe.encoder,
            encoder_digest=recipe.encoder,
            tile_um=1.0,  # of no account: these shards never leave this folder
            side=recipe.side,
        )
        plan = PretrainPlan(
            optimisation=Optimisation(
                learning_rate=1e-3,
                n_steps=recipe.pretrain_steps,
                warm_up=recipe.pretrain_steps // 10,
            ),
            batch=64,
            seed=seed,
            masking=recipe.masking,
            weights=recipe.losses,
        )
        alone = Processes(0, 1, torch.device("cpu"))
        return pretrain(config, read_shards(folder), plan, alone, axes=axes).model


def _shown(one: Seen, recipe: Recipe) -> NDArray[Any]:
    image = one.images[recipe.encoder]
    return scale_slide(image) if recipe.image_axes else image
