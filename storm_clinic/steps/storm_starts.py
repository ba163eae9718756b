"""Checkpoints that networks of an evaluation start from: found, checked, and held against folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from storm_clinic.errors import CheckpointError
from storm_clinic.files import Workspace
from storm_clinic.steps.storm_folds import PairedData
from storm_clinic.storm.checkpoint import Checkpoint, load_checkpoint
from storm_clinic.storm.evaluate import Recipe
from storm_clinic.storm.evaluation_file import EvaluationFile
from storm_clinic.storm.starting_checkpoint import load_start, refuse_leak, starting_folder
from storm_clinic.storm.trained_on import TrainedSection, from_card, seen_before


@dataclass(frozen=True)
class Start:
    """A checkpoint that fits a recipe.

    Attributes
    ----------
    folder : Path
    digest : str
        The checkpoint's.
    record : tuple of TrainedSection
        What it was trained on.
    name, licence : str or None
        As its card has them.
    """

    folder: Path
    digest: str
    record: tuple[TrainedSection, ...]
    name: str | None
    licence: str | None

    def load(self) -> Checkpoint:
        """The checkpoint.

        Raises
        ------
        CheckpointError
            If it cannot be read, or is no longer the one that was checked.
        """
        found = load_checkpoint(self.folder)
        if found.digest != self.digest:
            raise CheckpointError(
                "was exchanged while networks started from it",
                where=self.folder,
                fix="Run the same again.",
            )
        return found


def starts_of(
    asked: EvaluationFile, recipes: Sequence[Recipe], data: PairedData, workspace: Workspace
) -> dict[str, Start]:
    """Find and check the checkpoints that recipes start from, by what their ``start`` says.

    Raises
    ------
    CheckpointError
        If one is not there, does not fit its recipe, or does not say what it was trained on.
    """
    starts: dict[str, Start] = {}
    for recipe in recipes:
        if recipe.start is None:
            continue
        folder = starting_folder(recipe.start, workspace)
        config = recipe.config(
            image_width=data.seen[0].images[recipe.encoder].shape[1],
            n_genes=recipe.n_genes,
            pitch_um=data.pitch_um,
        )
        found = load_start(
            folder,
            config,
            row=recipe.name,
            encoder_digest=data.encoders[recipe.encoder].digest,
            tile_um=asked.encoder.tile_um,
        )
        starts[recipe.start] = Start(
            folder,
            found.digest,
            from_card(found.card, where=folder),
            found.card.get("name"),
            found.card.get("licence"),
        )
    return starts


def seen_by(start: Start | None, asked: EvaluationFile, data: PairedData) -> dict[str, str]:
    """Sections to be left out that a start or the encoder was trained on; see `seen_before`."""
    record = (*(() if start is None else start.record), *data.seen_by_encoder)
    return seen_before(record, data.measured, unit=asked.leave_out)


def refuse_seen(asked: EvaluationFile, starts: Mapping[str, Start], data: PairedData) -> None:
    """Refuse checkpoints and an encoder that were trained on a section that some fold leaves out.

    Each section is left out in some fold, so that a start may have seen none of them.

    Raises
    ------
    LeakageError
        Naming checkpoint or encoder, and sections.
    """
    refuse_leak(seen_by(None, asked, data), f"encoder {data.encoder.card.name}")
    for start in starts.values():
        refuse_leak(seen_by(start, asked, data), start.folder)
