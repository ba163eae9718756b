"""``storm finetune``: a checkpoint from all sections, with evidence from left-out ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.files import Workspace
from storm_clinic.progress import Progress, silent
from storm_clinic.steps.storm_folds import (
    NetworkWork,
    Work,
    how_left_out,
    in_processes,
    log_held_out,
    one_thread,
    read_paired,
)
from storm_clinic.storm.checkpoint import Inputs, save_checkpoint
from storm_clinic.storm.domain import TrainingDomain
from storm_clinic.storm.evaluate import folds, taught_network
from storm_clinic.storm.evaluation_file import EvaluationFile, read_evaluation
from storm_clinic.storm.evaluation_table import by_gene, reliability_of, summary
from storm_clinic.storm.paired import PairedSection
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
    table : DataFrame
        Its row of held-out figures, over all genes it knows.
    """

    checkpoint: Path
    digest: str
    n_genes: int
    n_with_evidence: int
    table: pd.DataFrame


def finetune_storm(
    config_path: str | Path,
    *,
    workspace: Workspace | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> FinetuningResult:
    """Make a checkpoint of a YAML's network, taught on all sections, with each gene's evidence.

    Held-out figures come first and from networks that did not see the section; the checkpoint is
    one more network by the same recipe, with the first seed, that saw all. Arguments and errors as
    `evaluate_storm`; the checkpoint goes to ``storm/<name>/checkpoint``.
    """
    workspace, progress = workspace or Workspace(), progress or silent
    asked = read_evaluation(workspace.path(config_path))
    recipe = asked.network.recipe
    tracker = Tracker(workspace)
    with tracker.start_storm(asked.name, kind="fine-tuning", digest=asked.digest) as run:
        data = read_paired(asked, [recipe], workspace, progress, rivals=False)
        work: list[Work] = [
            NetworkWork(data.seen, group, recipe, seed, recipe.n_genes, data.pitch_um)
            for seed in asked.seeds
            for group in folds(data.measured, asked.leave_out)
        ]
        found = in_processes(work, jobs, progress)
        genes = by_gene(found, {section.name: section for section in data.measured})
        with one_thread():
            model, vocabulary = taught_network(
                data.seen, recipe, seed=asked.seeds[0], pitch_um=data.pitch_um
            )
        how = how_left_out(asked, data.measured)
        reliability = reliability_of(genes, recipe.name, vocabulary, how)
        row = summary(genes, rival=None)
        folder = workspace.root / "storm" / asked.name / "checkpoint"
        digest = save_checkpoint(
            folder,
            model,
            inputs=Inputs(
                encoder=data.encoder.card.name,
                encoder_digest=data.encoder.digest,
                tile_um=asked.encoder.tile_um,
                side=recipe.side,
            ),
            vocabulary=vocabulary,
            reliability=reliability,
            domain=TrainingDomain.fit(
                {one.section.name: one.images[recipe.encoder] for one in data.seen}
            ),
            card=_card(asked, data.measured, row),
        )
        log_held_out(run, asked, row, {"checkpoint_digest": digest})
    evident = int(reliability.exceeds(0.0).sum())
    return FinetuningResult(folder, digest, len(vocabulary), evident, row)


def _card(
    asked: EvaluationFile, sections: list[PairedSection], row: pd.DataFrame
) -> dict[str, Any]:
    figures = {name: round(float(row[name].iloc[0]), 4) for name in ("r", "lower", "upper", "mse")}
    return {
        "name": asked.name,
        **asked.card.model_dump(),
        "n_sections": len(sections),
        "n_patients": len({section.patient for section in sections}),
        "n_spots": sum(section.n_spots for section in sections),
        "left_out": dict(sum((Counter(section.left_out) for section in sections), Counter())),
        "technologies": sorted({section.technology for section in sections}),
        "held_out": {"how": how_left_out(asked, sections), "over_all_genes": figures},
        "settings_digest": asked.digest,
    }
