"""The YAML of an evaluation: which sections, what is left out, which networks and rivals."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field

from storm_clinic.errors import InputError, TrainingError
from storm_clinic.files import digest_value
from storm_clinic.storm.config import GeneEncoding, Size
from storm_clinic.storm.evaluate import Recipe, Unit
from storm_clinic.storm.impute import FinetunePlan
from storm_clinic.storm.neighbourhood import Side
from storm_clinic.storm.pretraining_file import CardTexts, EncoderChoice, Losses, Masking
from storm_clinic.storm.section_sources import Source
from storm_clinic.storm.tile_views import MOST_VIEWS
from storm_clinic.strict_yaml import Name, StrictModel, parse, read_yaml

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Baseline = Literal["mean", "library", "hest-probe", "ridge", "ridge, scaled by slide"]


class RecipeChoice(StrictModel):
    """A network and how it is taught; see `Recipe` and `FinetunePlan`."""

    name: str = Field(min_length=1, description="What its row is called.")
    size: Size = Field(default=Recipe.size, description="tiny, small or base.")
    experts: Literal["modality", "one"] = Field(
        default=Recipe.experts, description="See StormConfig."
    )
    alibi: bool = Field(default=Recipe.alibi, description="Attention falls with distance.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=Recipe.dropout, description="In training."
    )
    image_axes: Annotated[int, Field(ge=0)] = Field(
        default=Recipe.image_axes,
        description="Principal axes of slide-scaled embeddings; 0: raw embeddings.",
    )
    readout: NotNegative = Field(
        default=Recipe.readout, description="Pitches over which a spot is read out; 0: itself."
    )
    gene_encoder: GeneEncoding = Field(
        default=Recipe.gene_encoder,
        description="The gene encoder, the raw vector of genes, or Novae (with a start only).",
    )
    gene_width: Count = Field(
        default=Recipe.gene_width, description="Numbers a spot's expression is embedded as."
    )
    side: Side = Field(default=Recipe.side, description="Points along an edge of a context.")
    n_genes: Count = Field(default=Recipe.n_genes, description="Genes that are taught.")
    pretrain_steps: Annotated[int, Field(ge=0)] = Field(
        default=Recipe.pretrain_steps, description="Updates of masked modelling before."
    )
    masking: Masking = Field(default=Masking(), description="Of masked modelling.")
    losses: Losses = Field(default=Losses(), description="Of masked modelling.")
    encoder: Literal["plain", "random"] = Field(
        default=Recipe.encoder, description="The encoder's weights, or random ones."
    )
    n_looks: Annotated[int, Field(ge=1, le=MOST_VIEWS)] = Field(
        default=Recipe.n_looks, description="Ways in which a tile is shown in fine-tuning."
    )
    stain: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=Recipe.stain, description="Share by which dyes differ in other looks."
    )
    start: Annotated[str, Field(min_length=1)] | None = Field(
        default=Recipe.start, description="Checkpoint to start from: a folder, or a shipped name."
    )
    epochs: Count = Field(default=FinetunePlan.epochs, description="Passes over the spots.")
    batch: Count = Field(default=FinetunePlan.batch, description="Spots a batch.")
    learning_rate: Positive = Field(default=FinetunePlan.learning_rate, description="Highest.")
    weight_decay: NotNegative = Field(default=FinetunePlan.weight_decay, description="Of AdamW.")
    l1: NotNegative = Field(default=FinetunePlan.l1, description="Weight of the absolute error.")
    l2: NotNegative = Field(default=FinetunePlan.l2, description="Weight of the squared error.")

    teacher: NotNegative = Field(
        default=FinetunePlan.teacher, description="Weight of what a ridge says; 0: no teacher."
    )

    gene_axes: Annotated[int, Field(ge=0)] = Field(
        default=FinetunePlan.gene_axes,
        description="Axes of genes that half of the target is put on; 0: what was measured alone.",
    )

    @property
    def recipe(self) -> Recipe:
        """What the evaluation works with."""
        values = self.model_dump(exclude={"masking", "losses"})
        taught = [field.name for field in fields(FinetunePlan) if field.name in values]
        plan = FinetunePlan(**{name: values.pop(name) for name in taught})
        return Recipe(**values, masking=self.masking.mix, losses=self.losses.weights, finetune=plan)


class EvaluationFile(StrictModel):
    """A whole file."""

    format: Literal[1] = Field(description="Version of this file's format.")
    name: Name = Field(description="Of the checkpoint that these settings lead to.")
    sections: tuple[Source, ...] = Field(min_length=1, description="All sections.")
    encoder: EncoderChoice
    points_per_pitch: Annotated[int, Field(ge=1, le=4)] = Field(
        default=1, description="Points at which H&E is seen, along one pitch of the spots."
    )
    least_counts: Count = Field(
        default=1, description="Spots with fewer counts in all were hardly measured: left out."
    )
    leave_out: Unit = Field(description="One section at a time, or all of one patient's.")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=2, description="Each teaches every network anew."
    )
    top_genes: Count = Field(description="Genes looked at, chosen on the training sections.")
    network: RecipeChoice = Field(description="What is evaluated, and fine-tuned in the end.")
    ablations: tuple[RecipeChoice, ...] = Field(
        default=(), description="The network with what is named changed, and nothing else."
    )
    baselines: tuple[Baseline, ...] = Field(
        default=get_args(Baseline), description="Rivals without a network."
    )
    wide_um: Positive = Field(default=310.0, description="The wider field that the ridge sees too.")
    card: CardTexts

    @property
    def recipes(self) -> list[Recipe]:
        """The network first."""
        return [choice.recipe for choice in (self.network, *self._ablations)]

    @property
    def _ablations(self) -> tuple[RecipeChoice, ...]:
        """Ablations with all that they have from the network."""
        return tuple(_changed(self.network, choice) for choice in self.ablations)

    def resolved(self) -> dict[str, Any]:
        """All settings as plain JSON, variables not filled in."""
        whole = self.model_copy(update={"ablations": self._ablations})
        return whole.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 of all settings."""
        return digest_value(self.resolved())


_Choice = TypeVar("_Choice", bound=StrictModel)


def _changed(whole: _Choice, by: StrictModel) -> _Choice:
    """A copy with what the other one sets, and nothing else, also within what it sets."""
    update: dict[str, Any] = {}
    for name in by.model_fields_set:
        old, new = getattr(whole, name), getattr(by, name)
        update[name] = _changed(old, new) if isinstance(new, StrictModel) else new
    return whole.model_copy(update=update)


def read_evaluation(path: Path) -> EvaluationFile:
    """Read the file.

    Raises
    ------
    InputError
        Naming file, line and field; or if two rows have one name, or more genes are looked at than
        taught.
    TrainingError
        If settings contradict one another.
    """
    found = parse(EvaluationFile, read_yaml(path, InputError), where=str(path), error=InputError)
    for row in (found.network, *found._ablations):
        try:
            _ = row.recipe
        except TrainingError as error:
            where = f"{path}, row {row.name!r}, {error.where}"
            raise TrainingError(error.problem, where=where, fix=error.fix) from error
    names = [recipe.name for recipe in found.recipes] + list(found.baselines)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two rows are called {name!r}", where=path)
    few = [recipe.name for recipe in found.recipes if recipe.n_genes < found.top_genes]
    if few:
        raise InputError(
            f"{few[0]} teaches fewer genes than the {found.top_genes} to be looked at",
            where=path,
            fix="Raise n_genes.",
        )
    unseen = [recipe.name for recipe in found.recipes if recipe.stain and recipe.n_looks == 1]
    if unseen:
        raise InputError(
            f"{unseen[0]} varies the stain of other looks, and shows one look a tile",
            where=path,
            fix="Raise n_looks, or set stain: 0.0 in this row.",
        )
    both = [recipe.name for recipe in found.recipes if recipe.start and recipe.pretrain_steps]
    if both:
        raise InputError(
            f"{both[0]} starts from a checkpoint and is pretrained too",
            where=path,
            fix="Set start: null or pretrain_steps: 0 in this row.",
        )
    bare = [row.name for row in found.recipes if row.gene_encoder == "novae" and not row.start]
    if bare:
        raise InputError(
            f"{bare[0]} reads expression as Novae embeds it, and is not shown any here",
            where=path,
            fix="Start from a checkpoint that was pretrained with Novae, or choose mlp.",
        )
    return found
