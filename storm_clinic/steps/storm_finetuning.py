"""``storm finetune``: a checkpoint from all sections, with evidence from left-out ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.files import Workspace
from storm_clinic.licence_terms import joined
from storm_clinic.progress import Progress, silent
from storm_clinic.steps.storm_fits import done_or_kept, kept_fits, network_work, one_thread
from storm_clinic.steps.storm_folds import (
    PairedData,
    how_left_out,
    log_held_out,
    read_paired,
)
from storm_clinic.steps.storm_starts import Start, seen_by, starts_of
from storm_clinic.storm.checkpoint import Inputs, save_checkpoint
from storm_clinic.storm.domain import TrainingDomain
from storm_clinic.storm.evaluate import folds, taught_network
from storm_clinic.storm.evaluation_file import EvaluationFile, read_evaluation
from storm_clinic.storm.evaluation_table import by_gene, reliability_of, summary
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.own_encoder import pass_on_encoder
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.reliability import GeneReliability
from storm_clinic.storm.trained_on import TRAINED_ON, TrainedSection, to_card
from storm_clinic.tracking import Tracker


@dataclass(frozen=True)
class FinetuningResult:
    """What a fine-tuning left.

    Attributes
    ----------
    checkpoint : Path
        Folder for `load_checkpoint`.
    digest : str
    n_genes, n_with_evidence : int
        Genes it imputes, and those whose held-out r has a lower bound above 0.
    table : DataFrame or None
        Its row of held-out figures, over all genes it knows; None where nothing could be left out.
    seen_by_start : tuple of str
        Sections that the checkpoint it started from, or its encoder, was trained on, or their
        patients.
    n_kept, n_new : int
        Fits that were there from an earlier run, and those made by this one.
    """

    checkpoint: Path
    digest: str
    n_genes: int
    n_with_evidence: int
    table: pd.DataFrame | None
    seen_by_start: tuple[str, ...]
    n_kept: int
    n_new: int


def finetune_storm(
    config_path: str | Path,
    *,
    workspace: Workspace | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> FinetuningResult:
    """Make a checkpoint of a YAML's network, taught on all sections, with each gene's evidence.

    Held-out figures come first and from networks that did not see the section; the checkpoint is
    one more network by the same recipe, with the first seed, that saw all. Where the network
    starts from a checkpoint that was trained on one of the sections, none can be left out: no gene
    gets evidence then, and the card says why. Arguments, what is kept and errors as
    `evaluate_storm`; the checkpoint goes to ``storm/<name>/checkpoint``.
    """
    workspace, progress = workspace or Workspace(), progress or silent
    asked = read_evaluation(workspace.path(config_path))
    recipe = asked.network.recipe
    tracker = Tracker(workspace)
    with tracker.start_storm(asked.name, kind="fine-tuning", digest=asked.digest) as run:
        data = read_paired(asked, [recipe], workspace, progress, rivals=False)
        starts = starts_of(asked, [recipe], data, workspace)
        start = None if recipe.start is None else starts[recipe.start]
        groups = folds(data.measured, asked.leave_out)
        seen = seen_by(start, asked, data)
        # What the start was trained on cannot be left out: such figures would be too good.
        work = [] if seen else network_work(asked, data, [recipe], groups, recipe.n_genes, starts)
        fits = done_or_kept(work, kept_fits(workspace), jobs, progress)
        with one_thread():
            model, vocabulary = taught_network(
                data.seen,
                recipe,
                seed=asked.seeds[0],
                pitch_um=data.pitch_um,
                start=None if start is None else start.load(),
            )
        evidence = None
        if not seen:
            evidence = _Evidence.of(asked, data.measured, fits.found, vocabulary)
        folder = workspace.root / "storm" / asked.name / "checkpoint"
        weights = asked.encoder.weights_path(workspace)
        if recipe.encoder == "plain":
            pass_on_encoder(weights, folder, data.encoder.digest)
        digest = save_checkpoint(
            folder,
            model,
            inputs=Inputs(
                encoder=data.encoder.card.name,
                encoder_digest=data.encoders[recipe.encoder].digest,
                tile_um=asked.encoder.tile_um,
                side=recipe.side,
            ),
            vocabulary=vocabulary,
            reliability=None if evidence is None else evidence.reliability,
            domain=TrainingDomain.fit(
                {one.section.name: one.images[recipe.encoder] for one in data.seen}
            ),
            card=_card(asked, data, start, _held_out(data.measured, evidence, seen)),
        )
        row = None if evidence is None else evidence.row
        log_held_out(run, asked, row, {"checkpoint_digest": digest})
    evident = 0 if evidence is None else int(evidence.reliability.exceeds(0.0).sum())
    return FinetuningResult(
        folder, digest, len(vocabulary), evident, row, tuple(sorted(seen)), fits.n_kept, fits.n_new
    )


@dataclass(frozen=True, eq=False)
class _Evidence:
    """Each gene's, and the row over all genes."""

    reliability: GeneReliability
    row: pd.DataFrame

    @classmethod
    def of(
        cls,
        asked: EvaluationFile,
        sections: list[PairedSection],
        found: list[HeldOut],
        vocabulary: GeneVocabulary,
    ) -> _Evidence:
        genes = by_gene(found, {section.name: section for section in sections})
        how = how_left_out(asked, sections)
        reliability = reliability_of(genes, asked.network.name, vocabulary, how)
        return cls(reliability, summary(genes, rival=None))


def _held_out(
    sections: list[PairedSection],
    evidence: _Evidence | None,
    seen: Mapping[str, str],
) -> dict[str, Any]:
    """What the card says of tissue that was left out; sections are counted, not named."""
    if evidence is None:
        how = (
            "not measured: the checkpoint that it started from, or its encoder, had been trained "
            f"on {len(seen)} of the {len(sections)} sections, or on their patients"
        )
        return {"how": how, "over_all_genes": None}
    row = evidence.row
    figures = {name: round(float(row[name].iloc[0]), 4) for name in ("r", "lower", "upper", "mse")}
    return {"how": evidence.reliability.how, "over_all_genes": figures}


def _card(
    asked: EvaluationFile,
    data: PairedData,
    start: Start | None,
    held_out: Mapping[str, Any],
) -> dict[str, Any]:
    """With all sections that its weights go back to, those of start and encoder among them."""
    sections = data.measured
    own = [*map(TrainedSection.of, sections), *data.seen_by_encoder]
    card = {
        "name": asked.name,
        **asked.card.model_dump(),
        "n_sections": len(sections),
        "n_patients": len({section.patient for section in sections}),
        "n_spots": sum(section.n_spots for section in sections),
        "left_out": dict(sum((Counter(section.left_out) for section in sections), Counter())),
        "technologies": sorted({section.technology for section in sections}),
        "held_out": dict(held_out),
        "settings_digest": asked.digest,
        TRAINED_ON: to_card(own if start is None else [*own, *start.record]),
    }
    if start is not None:
        card["start"] = {"name": start.name, "digest": start.digest}
        card["licence"] = joined(asked.card.licence, start.licence)
    if data.seen_by_encoder:
        card["licence"] = joined(card["licence"], data.encoder.card.licence)
    return card
