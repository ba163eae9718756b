"""The YAML of a pretraining: which sections, which network, how it is taught."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from storm_clinic.errors import InputError, TrainingError
from storm_clinic.files import Workspace, digest_value
from storm_clinic.storm.config import Size, StormConfig
from storm_clinic.storm.decoders import LossWeights
from storm_clinic.storm.image_encoder import DECAY, TILES_AT_ONCE
from storm_clinic.storm.masking import MaskingMix
from storm_clinic.storm.neighbourhood import Side
from storm_clinic.storm.novae import MODEL
from storm_clinic.storm.optimisation import Optimisation
from storm_clinic.storm.pretrain import PretrainPlan
from storm_clinic.storm.section_sources import Source, filled_in
from storm_clinic.storm.shard_writer import SPOTS_PER_SHARD, SPOTS_WITH_TILES
from storm_clinic.strict_yaml import Name, StrictModel, parse, read_yaml

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class EncoderChoice(StrictModel):
    """What the network sees of H&E."""

    name: str = Field(description="A tile encoder of the catalogue, or of the folder below.")
    tile_um: Positive = Field(description="Side of the tissue shown around a spot, in µm.")
    weights: str | None = Field(
        default=None,
        min_length=1,
        description="File or folder of its weights, absolute or under the workspace; ${VARIABLE} "
        "is filled in. By default from its package or the hub.",
    )

    def weights_path(self, workspace: Workspace) -> Path | None:
        """Where its weights lie, if that is said."""
        return None if self.weights is None else workspace.path(filled_in(self.weights))


class EncoderTraining(StrictModel):
    """How the image encoder is trained with the network; see `TrainableEncoder`."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=DECAY, description="Of the learning rate, from a layer to the one before it."
    )
    tiles_at_once: Count = Field(
        default=TILES_AT_ONCE, description="Whose inner values are in memory together."
    )


class NetworkChoice(StrictModel):
    """Its shape; see `StormConfig`."""

    size: Size = Field(description="tiny, small or base.")
    pitch_um: Positive = Field(description="What counts as one step of distance, in µm.")
    side: Side = Field(default=5, description="Spots along an edge of a context.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=StormConfig.dropout, description="On what each half of a block adds."
    )
    experts: Literal["modality", "one"] = Field(
        default=StormConfig.experts, description="Feed-forward networks: one a modality, or one."
    )
    alibi: bool = Field(default=StormConfig.alibi, description="Attention falls with distance.")
    image_axes: Annotated[int, Field(ge=0)] = Field(
        default=StormConfig.image_axes,
        description="Principal axes of slide-scaled embeddings; 0: raw embeddings.",
    )


class Masking(StrictModel):
    """Shares of the kinds of contexts; see `MaskingMix`."""

    both: Share = Field(default=MaskingMix.both, description="Both modalities, both masked.")
    image_alone: Share = Field(
        default=MaskingMix.image_alone, description="H&E alone, as at inference."
    )
    expression_alone: Share = Field(
        default=MaskingMix.expression_alone, description="Expression alone, masked."
    )
    whole_image: Share = Field(
        default=MaskingMix.whole_image, description="Of image_alone: nothing of it masked."
    )
    visible: Count = Field(
        default=MaskingMix.visible, description="Spots that stay visible where masked."
    )

    @property
    def mix(self) -> MaskingMix:
        """What masking works with."""
        return MaskingMix(**self.model_dump())


class Losses(StrictModel):
    """Weights of the three predictions; see `LossWeights`."""

    image: Annotated[float, Field(ge=0)] = Field(
        default=LossWeights.image, description="Masked image embeddings."
    )
    expression: Annotated[float, Field(ge=0)] = Field(
        default=LossWeights.expression, description="Masked expression."
    )
    virtual: Annotated[float, Field(ge=0)] = Field(
        default=LossWeights.virtual, description="Expression foretold from H&E alone."
    )

    @property
    def weights(self) -> LossWeights:
        """What the decoders work with."""
        return LossWeights(**self.model_dump())


class Updates(StrictModel):
    """How weights are updated; see `Optimisation`."""

    learning_rate: Positive = Field(description="Highest.")
    n_steps: Count = Field(description="Updates in all.")
    warm_up: Annotated[int, Field(ge=0)] = Field(
        default=Optimisation.warm_up, description="Updates in which the rate rises."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=Optimisation.weight_decay, description="Of AdamW, on matrices only."
    )
    final_share: Share = Field(
        default=Optimisation.final_share, description="Of the rate, at the cosine's end."
    )
    clip: Positive = Field(default=Optimisation.clip, description="Norm of gradients.")
    accumulate: Count = Field(
        default=Optimisation.accumulate, description="Batches averaged before an update."
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=Optimisation.ema, description="Share of the mean of weights that is kept; 0: none."
    )


class NovaeChoice(StrictModel):
    """A frozen Novae that embeds expression; see `storm.novae`."""

    model: str = Field(default=MODEL, min_length=1, description="Name on the hub, or a folder.")
    n_draws: Count = Field(
        default=8, description="Sets of visible spots a section; each is embedded once."
    )
    visible_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.4,
        description="Chance of a spot to be visible; Novae embeds those that have another two "
        "steps away: three in four of 0.4, three in ten of 0.2.",
    )


class CardTexts(StrictModel):
    """For people who meet the checkpoint."""

    data: str = Field(min_length=1, description="What it was trained on, and by whom published.")
    licence: str = Field(min_length=1, description="Of these data.")
    limits: str = Field(min_length=1, description="What it must not be trusted with.")


class PretrainingFile(StrictModel):
    """A whole file."""

    format: Literal[1] = Field(description="Version of this file's format.")
    name: Name = Field(description="Of the checkpoint.")
    sections: tuple[Source, ...] = Field(
        min_length=1, description="Training sections; patients in turn where there are several."
    )
    encoder: EncoderChoice
    train_encoder: EncoderTraining | None = Field(
        default=None, description="Train the encoder too, a vision transformer; null: it is frozen."
    )
    novae: NovaeChoice | None = Field(
        default=None,
        description="Expression as Novae embeds it; null: the network's own gene encoder.",
    )
    n_genes: Count = Field(description="How many of the genes that vary most are taught.")
    network: NetworkChoice
    masking: Masking = Masking()
    losses: Losses = Losses()
    updates: Updates
    batch: Count = Field(description="Contexts a batch, over all processes.")
    seed: Annotated[int, Field(ge=0)] = Field(description="Of weights, order, masks, dropout.")
    spots_per_shard: Count | None = Field(
        default=None,
        description=f"In memory at once; {SPOTS_PER_SHARD} by default, {SPOTS_WITH_TILES} with "
        "train_encoder, as each then brings its tile, 150 kB at 224 px.",
    )
    log_every: Count = Field(default=PretrainPlan.log_every, description="Updates a point.")
    keep_every: Count = Field(default=PretrainPlan.keep_every, description="Updates a state.")
    card: CardTexts

    @property
    def spots_at_once(self) -> int:
        """Most own spots of a shard."""
        usual = SPOTS_PER_SHARD if self.train_encoder is None else SPOTS_WITH_TILES
        return self.spots_per_shard or usual

    @property
    def plan(self) -> PretrainPlan:
        """How the network is taught."""
        return PretrainPlan(
            optimisation=Optimisation(**self.updates.model_dump()),
            batch=self.batch,
            seed=self.seed,
            masking=self.masking.mix,
            weights=self.losses.weights,
            log_every=self.log_every,
            keep_every=self.keep_every,
        )

    def config(self, *, image_width: int, n_genes: int, novae_width: int = 0) -> StormConfig:
        """The network's shape, once data have said what goes in."""
        chosen = self.network.model_dump(exclude={"size", "side", "pitch_um"})
        if self.novae is not None:
            chosen |= {"gene_encoder": "novae", "gene_width": novae_width}
        return StormConfig.of_size(
            self.network.size,
            image_width=image_width,
            n_genes=n_genes,
            pitch_um=self.network.pitch_um,
            **chosen,
        )

    def resolved(self) -> dict[str, Any]:
        """All settings as plain JSON, variables not filled in."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 of all settings."""
        return digest_value(self.resolved())


def read_pretraining(path: Path) -> PretrainingFile:
    """Read the file.

    Raises
    ------
    InputError
        Naming file, line and field.
    TrainingError
        If settings contradict one another.
    """
    document = read_yaml(path, InputError)
    found = parse(PretrainingFile, document, where=str(path), error=InputError)
    _ = found.plan  # contradictions are found before hours of embedding
    if found.train_encoder is not None and found.network.image_axes:
        raise TrainingError(
            "image_axes are those of embeddings that stay as they are, and train_encoder changes "
            "them",
            where=path,
            fix="Set network.image_axes: 0, or train_encoder: null.",
        )
    return found
